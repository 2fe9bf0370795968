"""`python -m msm_jax.study`: a complete experiment, from nothing to a report.

    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/miniature
    python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/smoke --dry_run
    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/mine --config.seeds='(7,)'

Makes the data, trains every stage of every arm once, evaluates, and writes results.json and
report.html into the working directory. Kill it whenever you like: the same command goes on.
Exit codes: 0 done, 2 a mistake in the command or its files, 75 preempted after saving, 1 a stage
broke down.
"""

import pathlib
import sys
import time

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.files import dumps, seal, write_json
from msm_jax.outputs import output_dir


def main() -> None:
    """The command."""
    from msm_jax.study import files, graph, jobs, slurm, steps, sweep

    given = flags.FLAGS
    workdir = output_dir(given.workdir, "--workdir")
    files.check_links(workdir)
    study = steps.with_steps(graph.make_study(sweep.added(given.config, given.sweep)), workdir)
    only = jobs.find(study, given.only) if given.only is not None else None
    on_slurm = given.executor == "slurm"
    if given.distributed and not (given.jobs or on_slurm or (only and only.kind == "train")):
        raise UserError("--distributed: goes with --only=ID of a stage of training")
    if given.adopt and (only or given.jobs or on_slurm):
        raise UserError("--adopt: goes with a study on this machine: leave out the other flag")
    if given.jobs:
        print(dumps(jobs.graph(study, workdir, sys.argv[1:]), indent=1))
    elif on_slurm and not given.dry_run:
        print(*slurm.submit(study, workdir, sys.argv[1:], given.slurm, given.slurm_cpu), sep="\n")
    else:
        _run(study, workdir, only)


def _run(study, workdir: pathlib.Path, only) -> None:
    """A study, or one node, on this machine."""
    from msm_jax.study import adopt, display, files, runner
    from msm_jax.study.claims import Claims

    started = time.time()
    if only is None or flags.FLAGS.dry_run:
        print(display.plan(study, workdir), flush=True)
    if flags.FLAGS.dry_run:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with Claims(workdir) as claims, claims.hold("names"):
        files.link_arms(study, workdir)
    try:
        if flags.FLAGS.adopt:
            runner.run(study.before_training, workdir)
            for sentence in adopt.adopt(study, workdir, flags.FLAGS.adopt):
                print(sentence, flush=True)
        if only is not None:
            study.config["workers"] = study.config["workers"] or 1  # it has all accelerators
        waiting = runner.run(study, workdir, only, flags.FLAGS.distributed)
    except runner.Failed as failure:
        sys.exit(f"failed: {failure}")
    if only is not None:
        if waiting:
            raise UserError(f"{only.title}: cannot be done yet: {waiting[only.id]}")
        print(f"done: {files.directory(workdir, only)}")
        return
    from msm_jax.study import report, results, tables

    with Claims(workdir) as claims, claims.hold("report"):
        found = results.collect(study, workdir, time.time() - started, waiting)
        write_json(workdir / "results.json", {**found, "seal": seal(found)})
        report.write(found, study, workdir)
    print(tables.table(found))
    print(f"results: {workdir / 'results.json'}")
    print(tables.last_line(found, str(workdir / "report.html")))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the study; made if missing.")
    flags.DEFINE_list("adopt", [], "Finished runs of `train` that are stages of this study.")
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "config.KEY=VALUE,VALUE: repeats the arms that depend on the key with each other value.",
    )
    flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
    flags.DEFINE_string("only", None, "Do one node: its id, or the beginning of its id.")
    flags.DEFINE_bool("distributed", False, "Join the other hosts of this slice, for one stage.")
    flags.DEFINE_enum("jobs", None, ["json"], "Print the nodes as jobs for a scheduler and stop.")
    flags.DEFINE_enum(
        "executor", "local", ["local", "slurm"], "Run on this machine, or submit jobs to Slurm."
    )
    flags.DEFINE_list(
        "slurm",
        [],
        "Options of sbatch for jobs, such as partition=gpu,time=24:00:00,gres=gpu:1.",
    )
    flags.DEFINE_list(
        "slurm_cpu", [], "The same for jobs that need no accelerator; as --slurm if empty."
    )
    flags.mark_flag_as_required("workdir")
    command.run(main)
