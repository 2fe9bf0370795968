"""Every command ends in one message and exit code 2 for whatever a user gets wrong."""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from msm_jax.command import report_of_thread
from msm_jax.tiny import tiny_checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [f"the {size} fox sees a {color} hen." for size in ("old", "big") for color in ("red",)]

STAGE = """
from msm_jax.train.config import source, stage

def get_config(arg=""):
    config = stage()
    config.parent = "tiny"
    config.data.documents = source("docs.jsonl")
    config.sequence_length, config.rows, config.steps = 16, 4, 2
    config.model.preset = "parent"
    CHANGE
    return config.lock()
"""
STUDY = """
from ml_collections import ConfigDict
from msm_jax.study.config import study
from msm_jax.train.config import source

def get_config(arg=""):
    config = study()
    config.tokenizer.corpus = "corpus.txt"
    config.stages = ConfigDict({"base": {"data": {"docs": source("docs.jsonl")}, "steps": 2}})
    config.arms.one = ("base",)
    CHANGE
    return config.lock()
"""
GENERATE = """
from msm_jax.corpus.config import generate

def get_config(arg=""):
    config = generate()
    config.spec.path, config.spec.model_name, config.spec.provider_name = "spec.md", "Qwen", "Us"
    config.documents.count, config.writer.kind = 5, "stub"
    CHANGE
    return config.lock()
"""
EVALUATE = """
from ml_collections import ConfigDict

def get_config(arg=""):
    config = ConfigDict({"checkpoint": "tiny", "pairs": "pairs.jsonl", "max_tokens": 2})
    CHANGE
    return config
"""
# A config file that is broken in itself: name, and its text or what stands for CHANGE.
FILES = {
    "syntax": "config = (",
    "raises": "1 / 0",
    "imports": "import no_such_module",
    "opens": "open('no/such/file')",
    "misspelt": "config.stepps = 1",
    "group": "config = 3; return config",
    "none": "return None",
    "deep": "f = lambda: f(); f()",
}
BAD_FILES = [f"--config={name}.py" for name in FILES] + [
    "--config=nothing.py", "--config=folder", "--config=folder.py", "--config=good",
    "--config=docs.jsonl", "--config=", "--config=bytes.py", "--config=nul.py",
    "--config=closed.py", "--config=no_function.py", "--config=broken_link.py",
    "--flagfile=nothing",
]  # fmt: skip
BAD_PLACES = [
    "", "gs://bucket/a", "a[1]", "docs.jsonl", "docs.jsonl/below", "$HOME/a", "x" * 300, "/proc/a",
    "/dev/full/a", "readonly/a",
]  # fmt: skip
CONFIG = "--config=good.py"
UNKNOWN = ["--no_such_flag=1", "word", "--config.nothing=1"]


def _train() -> list[list[str]]:
    work = "--workdir=out"
    cases = [[file, work] for file in BAD_FILES]
    cases += [[CONFIG, f"--workdir={place}"] for place in [*BAD_PLACES, "tiny"]]
    cases += [[CONFIG, work, word] for word in UNKNOWN]
    cases += [[CONFIG, work, *words.split()] for words in (
        "--processes=2", "--process=0", "--coordinator=here", "--coordinator=http://here:1",
        "--coordinator=here:1", "--coordinator=here:1 --processes=2 --process=2",
        "--coordinator=here:1 --processes=x",
    )]  # fmt: skip
    return cases + [[CONFIG], [work]] + [
        [CONFIG, work, f"--config.{change}"]
        for change in (
            "optimizer.clip_norm=-1", "seed=-1", "seed=x", "steps=1.5", "optimizer.eps=nan",
            "model.lora_rank=-1", "eval.batches=0", "sequence_length=1", "data.documents.repeat=0",
            "parent=nowhere", "parent=folder", "parent=docs.jsonl", "tokenizer=docs.jsonl",
            "data.documents.path=nowhere.jsonl", "data.documents.path=folder.py",
            "data.documents.path=bad.jsonl", "data.documents.path=empty.jsonl",
            "data.documents.path=closed.jsonl", "mesh.tensor=7", "model.preset=qwen99",
            "chat_format=mine", "token_cache=docs.jsonl", "optimizer={'b1':0.5}", "rows=3.0",
            "accumulation=3", "trainable=lora", "model.param_dtype=bfloat16", "data=x",
            "watchdog=inf", "keep_steps=(0,)", "model.lora_targets=('x',)", "fall_back=perhaps",
        )
    ]  # fmt: skip


def _study() -> list[list[str]]:
    work = "--workdir=out"
    cases = [[file, work] for file in BAD_FILES]
    cases += [[CONFIG, f"--workdir={place}"] for place in BAD_PLACES]
    cases += [[CONFIG, work, word] for word in UNKNOWN]
    return cases + [[CONFIG], [work]] + [
        [CONFIG, work, "--dry_run", f"--config.{change}"]
        for change in (
            "seeds=(1,1)", "seeds=()", "seeds=(-1,)", "workers=-1", "stages.base.steps=-2",
            "train.optimizer.clip_norm=-1", "arms.one=('base','base')", "arms.one=('x',)",
            "world.builder=nowhere", "world.builder=no_such_module:build",
            "world.builder=msm_jax.errors:build", "tokenizer.corpus=nowhere.txt",
            "stages.base.data.docs.path=nowhere.jsonl", "stages.base.data.docs.weight=-1",
            "dose.steps=(0,)", "figure.eval=x", "controls.within=-1",
        )
    ]  # fmt: skip


def _generate() -> list[list[str]]:
    work = "--workdir=out"
    cases = [[file, work] for file in BAD_FILES]
    cases += [[CONFIG, f"--workdir={place}"] for place in BAD_PLACES]
    cases += [[CONFIG, work, word] for word in UNKNOWN]
    return cases + [
        [CONFIG, work, f"--config.{change}"]
        for change in (
            "make=poems", "seed=-1", "documents.count=0", "documents.words=(5,)",
            "documents.words=(9,1)", "filters.near_duplicates=2", "writer.kind=pen",
            "formats=('x',)", "spec.path=nowhere.md", "spec.path=folder.py", "spec.path=bytes.py",
            "tokenizer=nowhere",
            "writer.timeout=-1", "writer.kind=local", "writer.kind=", "make=mix", "make=spec",
            "make=neutral",
            "spec.path=closed.jsonl",
        )
    ]  # fmt: skip


def _compile() -> list[list[str]]:
    mesh = "--mesh=2"
    cases = [[file, mesh] for file in BAD_FILES]
    cases += [[CONFIG, mesh, word] for word in UNKNOWN]
    return cases + [[CONFIG], [mesh]] + [
        [CONFIG, mesh, f"--config.{change}"]
        for change in ("optimizer.clip_norm=-1", "model.preset=qwen99", "model.width=0", "seed=x")
    ] + [
        [CONFIG, mesh, "--json=folder"], [CONFIG, mesh, "--json=readonly/x"],
        [CONFIG, mesh, "--json=gs://a/b"], [CONFIG, "--mesh=-1"],
        [CONFIG, mesh, "--rows=0"], [CONFIG, mesh, "--slots=-1"], [CONFIG, "--topology=v99:2x2"],
        [CONFIG, "--mesh=many"],
    ]  # fmt: skip


def _evaluate() -> list[list[str]]:
    given = ["--checkpoint=tiny", "--pairs=pairs.jsonl"]
    out = "--output=out"
    cases = [[file, out] for file in BAD_FILES if "misspelt" not in file]
    cases += [[*given, f"--output={place}"] for place in BAD_PLACES]
    return cases + [given, [out], ["--config=misspelt.py", out]] + [
        [*given, out, word]
        for word in (
            "--no_such_flag=1", "word", "--pairs=nowhere.jsonl", "--pairs=bad.jsonl",
            "--pairs=docs.jsonl", "--pairs=folder.py", "--pairs=empty.jsonl", "--samples=0",
            "--temperature=inf", "--temperature=-1", "--max_tokens=0", "--seed=-1", "--rows=0",
            "--scorers=guess", "--judge=oracle", "--judge=openai", "--judge_url=x", "--kind=quiz",
            "--kind=poll", "--phase=guess", "--checkpoint=nowhere", "--checkpoint=folder.py",
            "--adapter=nowhere", "--dtype=int4", "--mesh=tensor", "--mesh=tensor=7",
            "--phase=report", "--phase=judge", "--max_error_share=2", "--scenarios=murder",
            "--kind=agents", "--kind=questions", "--judge=checkpoint", "--arms=x",
        )
    ] + [["--phase=judge", "--output=readonly/old"]]  # fmt: skip


def _convert() -> list[list[str]]:
    given, to = ["--source=tiny", "--to=huggingface"], "--target=out"
    return [[*given, f"--target={place}"] for place in [*BAD_PLACES, "tiny"]] + [
        given, ["--source=tiny", to], [to], ["--source=tiny", "--check", to],
        ["--source=nowhere", "--check"], ["--source=folder.py", "--check"],
        ["--source=", "--check"],
        ["--source=docs.jsonl", "--check"], ["--source=no_json", "--check"],
        ["--source=no_weights", "--check"], ["--source=cut", "--check"],
        ["--source=gs://a/b", "--check"],
        ["--source=tiny", "--check", "--adapter=nowhere"],
        ["--source=tiny", "--check", "--chat_format=mine"],
        ["--source=tiny", "--to=peft", to], ["--source=tiny", "--to=zip", to],
        ["--source=tiny", "--to=peft", to, "--dtype=bfloat16"], [*given, to, "--dtype=int4"],
        [*given, to, "--no_such_flag"], [*given, to, "word"], [*given, to, "--adapter=tiny"],
        ["--source=tiny", "--check", "--dtype=bfloat16"], [*given, to, "--text=docs.jsonl"],
        ["--source=tiny", "--check", "--dtype=int8", "--text=nowhere"],
        *([to, "--source=linked", f"--to={form}"] for form in ("huggingface", "orbax")),
    ]  # fmt: skip


def _sample() -> list[list[str]]:
    given = ["--checkpoint=tiny", "--prompt=the", "--max_tokens=2"]
    return [[*given, word] for word in (
        "--no_such_flag=1", "word", "--checkpoint=nowhere", "--checkpoint=docs.jsonl",
        "--checkpoint=",
        "--checkpoint=no_json", "--checkpoint=cut", "--max_tokens=0", "--temperature=-1",
        "--top_p=0", "--top_p=2", "--top_k=-1", "--min_p=2", "--rows=0", "--n=0", "--n=x",
        "--prompts=nowhere.jsonl", "--prompts=bad.jsonl", "--prompts=docs.jsonl",
        "--prompts=closed.jsonl", "--output=folder.py", "--output=gs://a/b", "--output=readonly/x",
        "--output=docs.jsonl/x",
        "--output=", "--chat", "--system=x", "--adapter=nowhere", "--dtype=int4", "--mesh=x",
        "--chat_format=mine", "--prompts=folder.py",
    )] + [["--checkpoint=tiny"], ["--prompt=the"]]  # fmt: skip


def _power() -> list[list[str]]:
    return [[word] for word in (
        "--no_such_flag=1", "word", "--pairs=x", "--pairs=0.5", "--pairs=0.5:0.5", "--pairs=2:0.1",
        "--pairs=0.1:-1", "--pairs=", "--conditions=0", "--conditions=x", "--power=0", "--power=1",
        "--alpha=2", "--pairs=nan:0.5", "--alpha=nan", "--pairs=0.1:0.2:0.3",
    )]  # fmt: skip


def _doctor() -> list[list[str]]:
    return [["--no_such_flag=1"], ["word"], ["--json=perhaps"], ["--workdir"]]


CASES = {
    "msm_jax.train": (STAGE, _train()),
    "msm_jax.study": (STUDY, _study()),
    "msm_jax.generate": (GENERATE, _generate()),
    "msm_jax.compile": (STAGE, _compile()),
    "msm_jax.evaluate": (EVALUATE, _evaluate()),
    "msm_jax.convert": ("", _convert()),
    "msm_jax.sample": ("", _sample()),
    "msm_jax.evals.power": ("", _power()),
    "msm_jax.doctor": ("", _doctor()),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", DOCUMENTS * 20)


@pytest.fixture
def folder(tmp_path, tiny):
    """A directory of good and bad files."""
    (tmp_path / "tiny").symlink_to(tiny)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS * 20)
    (tmp_path / "docs.jsonl").write_text(rows)
    (tmp_path / "corpus.txt").write_text("\n".join(DOCUMENTS))
    (tmp_path / "spec.md").write_text("# Values\n\nBe kind. Be honest.\n")
    pair = {"id": "a", "pair": "a", "system": "", "question": "red or blue?",
            "options": ["red", "blue"], "a_index": 0}  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (tmp_path / "bad.jsonl").write_text(rows + '{"text": "cut\n')
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("folder", "folder.py", "no_json", "no_weights", "cut", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "no_json" / "config.json").write_text("{")
    (tmp_path / "linked" / "LICENSE").symlink_to(tmp_path / "spec.md")  # as if it were private
    for file in tiny.iterdir():
        (tmp_path / "linked" / file.name).write_bytes(file.read_bytes())
    for name in ("no_weights", "cut"):
        for file in tiny.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
    for file in tiny.glob("*.safetensors"):
        (tmp_path / "cut" / file.name).write_bytes(file.read_bytes()[:-1000])
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00def")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "no_function.py").write_text("x = 1\n")
    (tmp_path / "broken_link.py").symlink_to("nowhere")
    # Nobody may read these, not even root, as far as the system lets a test see to it.
    for name in ("closed.py", "closed.jsonl"):
        (tmp_path / name).symlink_to("/proc/self/mem")
    # Nobody may write here: a file system that is mounted read-only, or permissions.
    closed = tmp_path / "readonly"
    (closed / "old").mkdir(parents=True)
    (closed / "old" / "evaluation.json").write_text('{"kind": "preferences"}')
    mount = ["mount", "--bind", "-o", "ro", str(closed), str(closed)]
    if mounted := os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode:
        subprocess.run([*mount[:1], "-o", "remount,ro,bind", str(closed)], check=True)
    (closed / "old").chmod(0o555) if not mounted else None
    closed.chmod(0o555) if not mounted else None
    yield tmp_path
    if mounted:
        subprocess.run(["umount", "-l", str(closed)], check=True)
    else:
        closed.chmod(0o755)
        (closed / "old").chmod(0o755)


@pytest.mark.parametrize("module", CASES)
def test_a_users_mistake_is_one_message(module, folder, forked):
    template, cases = CASES[module]
    if template:
        (folder / "good.py").write_text(template.replace("CHANGE", "pass"))
        for name, change in FILES.items():
            (folder / f"{name}.py").write_text(template.replace("CHANGE", change))
    assert len(cases) >= 4
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    results = [run(forked, module, argv, folder) for argv in cases]
    wrong = []
    for argv, found in zip(cases, results, strict=True):
        errors = [line for line in found["err"].splitlines() if line.startswith("error:")]
        if found["code"] != 2 or len(errors) != 1 or "Traceback" in found["out"] + found["err"]:
            wrong.append(f"{argv}: {found['code']}\n{found['err'][-1500:]}")
    assert not wrong, "\n\n".join(wrong)
    made = {path for path in folder.rglob("*") if "__pycache__" not in path.parts} - before
    kept = [path for path in made if not path.is_relative_to(folder / "out")]
    assert not kept, "made by commands that were refused"


def run(forked, module: str, argv: list[str], folder: pathlib.Path, **more) -> dict:
    """{"code", "out", "err"} of a command."""
    cache = {"MSM_JAX_CACHE": str(folder / "out" / "tokens")}
    return forked(module, argv, folder, env=cache, **more)


def test_a_broken_config_file_is_reported_with_its_line(folder, forked):
    for name, change in FILES.items():
        (folder / f"{name}.py").write_text(STAGE.replace("CHANGE", change))
    lines = {
        "syntax": r"syntax.py:\d+: SyntaxError: '\(' was never closed",
        "raises": r"raises.py:10: ZeroDivisionError: division by zero",
        "imports": r"imports.py:10: ModuleNotFoundError: No module named 'no_such_module'",
        "opens": r"opens.py:10: FileNotFoundError: .*no/such/file",
        "misspelt": r"misspelt.py:10: there is no key 'stepps'; nearest: steps",
        "group": r"group.py: get_config\(\) must return a ConfigDict, not 3",
        "deep": r"deep.py:10: RecursionError: ",
    }
    for name, says in lines.items():
        argv = [f"--config={name}.py", "--workdir=out"]
        found = run(forked, "msm_jax.train", argv, folder)
        assert re.fullmatch(f"error: {says}.*\n", found["err"]), (name, found["err"])


def test_a_misspelt_override_names_the_nearest_key_of_its_group(folder, forked):
    (folder / "good.py").write_text(STAGE.replace("CHANGE", "pass"))
    for flag, says in (
        ("packing.rowz=best", "--config.packing.rowz: there is no such key; nearest: packing.rows"),
        ("rowz=1", "--config.rowz: there is no such key; nearest: rows"),
        ("clip_normm=1", "--config.clip_normm: there is no such key; nearest: optimizer.clip_norm"),
        ("seed.x=1", "--config.seed.x: there is no such key; known: "),
        ("packing=1", "--config.packing: is a group: set its keys, as --config.packing.KEY=VALUE"),
    ):
        found = run(forked, "msm_jax.train", [CONFIG, f"--config.{flag}", "--workdir=out"], folder)
        assert (found["code"], found["err"]) == (2, f"error: {says}\n"), found


def test_standard_output_that_is_full_is_a_message(folder, forked):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    found = run(forked, "msm_jax.evals.power", [], folder, stdout="/dev/full")
    assert (found["code"], found["err"].count("error:")) == (2, 1), found
    assert "No space left" in found["err"] and "Traceback" not in found["err"]


def test_training_goes_on_when_nobody_reads_what_it_says(folder):
    """As of `python -m msm_jax.train ... 2>&1 | head -1`."""
    (folder / "good.py").write_text(STAGE.replace("CHANGE", "config.log_every = 1"))
    command = [sys.executable, "-m", "msm_jax.train", CONFIG, "--workdir=out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MSM_JAX_CACHE": str(folder / "tokens")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=environment
    ) as running:
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(timeout=300) == 0
    log = (folder / "out" / "log.txt").read_text()
    assert "done: 2 steps" in log and "Error" not in log
    # Closed from the start: nothing that is opened later takes their place.
    again = subprocess.run(
        ["bash", "-c", 'exec "$@" >&- 2>&-', "bash", *command], cwd=folder, env=environment
    )
    assert again.returncode == 0
    assert "Error" not in (folder / "out" / "log.txt").read_text()


def test_a_value_out_of_range_is_refused_from_a_file_a_flag_python_and_a_study_alike(
    folder, forked
):
    from msm_jax.errors import UserError
    from msm_jax.train.config import stage
    from msm_jax.train.loop import train

    says = "optimizer.clip_norm=-1.0: must be a number at least 0"
    change = "config{}.optimizer.clip_norm = -1"
    for name, template, place in (("stage", STAGE, ""), ("study", STUDY, ".train")):
        (folder / f"good_{name}.py").write_text(template.replace("CHANGE", "pass"))
        (folder / f"{name}.py").write_text(template.replace("CHANGE", change.format(place)))
    (folder / "own.py").write_text(
        STUDY.replace("CHANGE", 'config.stages.base.optimizer = {"clip_norm": -1.0}')
    )
    flag = "--config{}.optimizer.clip_norm=-1"
    for module, cases in {
        "msm_jax.train": (["--config=stage.py"], ["--config=good_stage.py", flag.format("")]),
        "msm_jax.study": (
            ["--config=study.py"],
            ["--config=good_study.py", flag.format(".train")],
            ["--config=own.py"],
        ),
    }.items():
        for case in cases:
            found = run(forked, module, [*case, "--workdir=out"], folder)
            assert found["code"] == 2 and found["err"].endswith(f"{says}\n"), found
    config = stage()
    config.optimizer.clip_norm = -1
    with pytest.raises(UserError, match=says):
        train(config, folder / "out")
    assert not (folder / "out").exists()


def test_what_a_thread_meets_is_one_message_and_its_bugs_have_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", report_of_thread)
    for work, says in (
        (lambda: os.stat(b"no/such/file"), "error: no/such/file: No such file or directory\n"),
        (lambda: {}["x"], "KeyError: 'x'\n"),
    ):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        said = capsys.readouterr().err
        assert said.endswith(says) and ("Traceback" in said) == ("KeyError" in says)
