"""`python -m msm_jax.study`: a complete experiment, from nothing to a report.

    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/miniature
    python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/smoke --dry_run
    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/mine --config.seeds='(7,)'

Makes the data, trains every stage of every arm once, evaluates, and writes results.json and
report.html into the working directory. Kill it whenever you like: the same command goes on.
Exit codes: 0 done, 2 a mistake in the command or its files, 75 preempted after saving, 1 a stage
broke down.
"""

import sys
import time

from absl import flags

from msm_jax import command
from msm_jax.outputs import output_dir


def main() -> None:
    """The command."""
    from msm_jax.files import write_json
    from msm_jax.study import adopt, display, files, graph, names, runner, steps

    started = time.time()
    workdir = output_dir(flags.FLAGS.workdir, "--workdir")
    files.check_links(workdir)
    study = steps.with_steps(graph.make_study(flags.FLAGS.config), workdir)
    print(display.plan(study, workdir), flush=True)
    if flags.FLAGS.dry_run:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with files.only_study(workdir):
        names.link_arms(study, workdir)
        try:
            if flags.FLAGS.adopt:
                runner.run(study.before_training, workdir)
                for sentence in adopt.adopt(study, workdir, flags.FLAGS.adopt):
                    print(sentence, flush=True)
            waiting = runner.run(study, workdir)
        except runner.Failed as failure:
            sys.exit(f"failed: {failure}")
        from msm_jax.study import report, results, tables

        found = results.collect(study, workdir, time.time() - started, waiting)
        write_json(workdir / "results.json", found)
        report.write(found, study, workdir)
    print(tables.table(found))
    print(f"results: {workdir / 'results.json'}\nreport:  {workdir / 'report.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the study; made if missing.")
    flags.DEFINE_list("adopt", [], "Finished runs of `train` that are stages of this study.")
    flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
    flags.mark_flag_as_required("workdir")
    command.run(main)
