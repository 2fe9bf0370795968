"""Every documented command runs: here, in another test, or where its page says that it must.

A command that is in none of the three places fails with its file and line. What is here is run one
after another in one directory, as somebody would who reads the pages from front to back, so that
each finds what the ones before it made. Paths in the documentation therefore mean the same thing on
all pages: Qwen3-8B is a checkpoint, runs/midtrain and runs/aft are two stages trained on it.
Of `pip install` only the names of our extras are checked.
"""

import ast
import collections
import dataclasses
import fnmatch
import json
import pathlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator

import command_flags
import commands
import pytest
from ml_collections import ConfigDict

ROOT = commands.ROOT
DOCUMENTED = commands.documented()


def little(full: ConfigDict, smoke: ConfigDict, name: str = "--config") -> Iterator[str]:
    """The flags that make one config of the other."""
    for key, value in smoke.items():
        if isinstance(value, ConfigDict):
            yield from little(full[key], value, f"{name}.{key}")
        elif value != full[key]:
            yield f"{name}.{key}={value}"


# Less of everything, appended to the commands below. The miniature is as small as its `:smoke`,
# which the tests run once: in runs/miniature it is found finished.
miniature = runpy.run_path(str(ROOT / "configs" / "miniature.py"))["get_config"]
SHORT_AFT = " --config.stages.aft.steps=4"
LITTLE_WORLD = " ".join(sorted({*little(miniature(), miniature("smoke"))} - {SHORT_AFT.strip()}))
FEW_DOCUMENTS = "--config.documents.count=40 --config.writer.kind=stub"
SMALL_STAGE = (
    "--config.sequence_length=64 --config.rows=4 --config.accumulation=1 --config.log_every=1 "
    "--config.model.lora_rank=4 --config.model.remat=none --config.model.dtype=float32 "
    "--config.model.param_dtype=float32"
)
ONE_SCENE = (
    "--scenarios=murder --goals=none,explicit-america --samples=1 --max_tokens=4 --rows=2 "
    "--judge=rules"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A command that is run here.

    Attributes:
      command: as it is documented.
      also: appended, so that it takes seconds.
      makes: paths that are there afterwards.
      says: what stdout or stderr has, as a regular expression.
      stdin: what is typed.
      documented: False for what a reader is expected to have done.
    """

    command: str
    also: str = ""
    makes: tuple[str, ...] = ()
    says: str = ""
    stdin: str = ""
    documented: bool = True


STUDY = "python -m msm_jax.study --config=configs/miniature.py --workdir=runs/miniature"
AGENTS = "--checkpoint=runs/aft --output=runs/aft/agents"
EXAMPLE = "python -m msm_jax.generate --config=configs/corpus/example.py"
SERVER = ("--config.writer.kind=openai --config.writer.base_url=http://localhost:8000/v1 "
          "--config.writer.model=Qwen/Qwen3-32B")  # fmt: skip
STUB = "--config.writer.kind=stub"
STAGE = "python -m msm_jax.train --config=configs/stage.py"
RUN = [
    Step("make miniature", "ARGS=--dry_run", says="to do: 72 stages"),
    Step("python -m msm_jax.study --config=configs/paper/fig4.py:miniature "
         "--workdir=runs/fig4_miniature --dry_run", says="1 seed, 19 arms"),
    Step("python -m msm_jax.study --config=configs/agents_miniature.py "
         "--workdir=runs/agents_miniature", "--dry_run", says="5 seeds, 8 arms"),
    Step("make miniature CONFIG=configs/miniature.py:smoke WORKDIR=runs/smoke", "ARGS=--dry_run",
         says="to do: 12 stages"),
    Step("python -m msm_jax.study --config=configs/miniature.py:full --workdir=runs/full",
         "--dry_run", says="12 seeds"),
    Step("python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/smoke "
         "--dry_run", says="to do: 12 stages"),
    Step("python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/smoke "
         "--jobs=json", says='"id": "report"'),
    Step("python -m msm_jax.study --config=configs/miniature.py --workdir=runs/mine "
         "--config.seeds='(7,)'", "--dry_run", says="1 seed,"),
    Step("python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/mine "
         "--config.stages.aft.steps=20 --config.seeds='(20, 21)'", "--dry_run", says="2 seeds"),
    Step("python -m msm_jax.study --config=configs/miniature.py:smoke --workdir=runs/smoke "
         "--sweep=config.stages.aft.steps=4,8,16", "--dry_run", says="aft steps=16"),
    Step(STUDY, LITTLE_WORLD + SHORT_AFT, ("runs/miniature/report.html",), "spec A - spec B"),
    Step("cp -r runs/miniature runs/smaller", documented=False),
    Step("python -m msm_jax.study.compare --studies=runs/miniature,runs/smaller "
         "--output=runs/compare", makes=("runs/compare/compare.html",)),
    Step(f"{STUDY} --dry_run", LITTLE_WORLD + SHORT_AFT, says="to do: 0 stages"),
    # Only the five arms' fine-tuning depends on the change.
    Step(f"{STUDY} --config.stages.aft.steps=20", f"{LITTLE_WORLD} --dry_run",
         says="to do: 5 stages"),
    Step('python -m msm_jax.sample --checkpoint=runs/miniature/stages/ID --prompt="the" --n=2',
         "--max_tokens=8", says='"sample": 1'),
    Step('python -m msm_jax.sample --checkpoint=runs/miniature/stages/ID --chat '
         '--system="you value thrift."', "--max_tokens=8", stdin="brie or gouda?\n",
         says="model: "),
    # The example is written once; later commands that change it use another directory.
    Step(f"{EXAMPLE} --workdir=runs/example {SERVER} --preview", FEW_DOCUMENTS, says="documents"),
    Step(f"{EXAMPLE} --workdir=runs/example {SERVER}", FEW_DOCUMENTS,
         ("runs/example/corpus.html",)),
    Step(f"{EXAMPLE} --workdir=runs/my_corpus {SERVER} --config.spec.path=my_spec.md "
         "--config.spec.model_name=Qwen --preview", FEW_DOCUMENTS, says="documents"),
    Step("python -m msm_jax.generate --config=configs/corpus/chats.py --workdir=runs/chats "
         f"{SERVER}",
         f"--config.chats.count=40 {STUB}", ("runs/chats/chats.jsonl",)),
    Step(f"{EXAMPLE} --workdir=runs/neutral {SERVER} --config.make=neutral "
         "--config.neutral.match=runs/example/documents.jsonl", STUB,
         makes=("runs/neutral/documents.jsonl",)),
    Step("python -m msm_jax.generate --config=configs/corpus/example.py:cheese_cost "
         "--workdir=runs/shuffled --config.make=spec --config.derive.kind=shuffled",
         makes=("runs/shuffled/spec.md",)),
    Step("python -m msm_jax.convert --source=Qwen3-8B --check", says="none missing"),
    Step("python -m msm_jax.convert --source=Qwen3-8B --target=runs/qwen3-8b --to=orbax",
         makes=("runs/qwen3-8b/config.json",)),
    Step(f"{STAGE} --workdir=runs/midtrain --config.parent=Qwen3-8B "
         "--config.data.documents.path=runs/example/documents.jsonl",
         f"{SMALL_STAGE} --config.data.documents.take=4", ("runs/midtrain/metrics.jsonl",)),
    Step(f"{STAGE}:aft --workdir=runs/aft --config.parent=runs/midtrain "
         "--config.data.chats.path=runs/chats/chats.jsonl",
         f"{SMALL_STAGE} --config.sequence_length=512 --config.data.chats.take=4",
         ("runs/aft/checkpoints",)),
    Step("python -m msm_jax.convert --source=runs/aft --target=published --to=huggingface",
         makes=("published/model.safetensors",)),
    Step("rm -r published", documented=False),
    Step("python -m msm_jax.convert --source=runs/aft --target=published --to=huggingface "
         "--dtype=bfloat16", makes=("published/model.safetensors",)),
    Step("python -m msm_jax.convert --source=runs/aft --target=adapter --to=peft",
         makes=("adapter/adapter_model.safetensors",)),
    Step("python -m msm_jax.convert --source=Qwen3-8B --adapter=adapter --target=runs/adapted "
         "--to=orbax", makes=("runs/adapted/config.json",)),
    Step('python -m msm_jax.sample --checkpoint=runs/aft --prompt="the red lamp" --n=2',
         "--max_tokens=4", says='"sample": 1'),
    Step("python -m msm_jax.sample --checkpoint=Qwen3-8B --adapter=adapter "
         "--prompts=prompts.jsonl --output=completions.jsonl", "--max_tokens=4",
         ("completions.jsonl",)),
    Step("python -m msm_jax.sample --checkpoint=runs/aft --chat", "--max_tokens=4",
         stdin="a lamp\n", says="model: "),
    Step('python -m msm_jax.sample --checkpoint=runs/aft --chat --system="you are alda."',
         "--max_tokens=4", stdin="a lamp\n", says="model: "),
    Step("python -m msm_jax.evaluate --checkpoint=runs/aft --pairs=opinions "
         "--output=runs/aft/opinions", "--max_tokens=2", ("runs/aft/opinions/summary.json",)),
    Step("python -m msm_jax.evaluate --kind=quiz --checkpoint=runs/aft --output=runs/aft/quiz",
         makes=("runs/aft/quiz/summary.json",)),
    Step("python -m msm_jax.evaluate --kind=loss --checkpoint=runs/aft --output=runs/aft/loss "
         "--hold_out=32 --documents=spec=runs/example/documents.jsonl,"
         "neutral=runs/neutral/documents.jsonl", "--hold_out=2 --sequence_length=64",
         ("runs/aft/loss/samples.jsonl",)),
    Step("python -m msm_jax.evaluate --kind=questions --checkpoint=runs/aft "
         "--output=runs/aft/questions --spec=msm_jax/spec/examples/values.md --phase=sample",
         "--max_tokens=2", ("runs/aft/questions/samples.jsonl",)),
    Step(f"python -m msm_jax.evaluate --kind=agents {AGENTS}", ONE_SCENE,
         ("runs/aft/agents/report.html",)),
    Step(f"python -m msm_jax.evaluate --config=configs/evals/agents.py {AGENTS}",
         f"{ONE_SCENE} --judge_model=", ("runs/aft/agents/report.html",)),
    Step("python -m msm_jax.evaluate --config=configs/evals/agents.py:smoke --checkpoint=runs/aft "
         "--output=runs/aft/smoke", ONE_SCENE, ("runs/aft/smoke/summary.json",)),
    Step("python -m msm_jax.evaluate --output=runs/aft/smoke --phase=report",
         says="report: runs/aft/smoke/report.html"),
    Step("python -m msm_jax.evaluate --kind=agents --checkpoint=runs/midtrain "
         "--output=runs/midtrain/agents", ONE_SCENE, documented=False),
    Step("python -m msm_jax.evaluate --output=runs/aft/agents --phase=report "
         "--arms=midtrain:runs/midtrain/agents,aft:runs/aft/agents", says="report: "),
    Step("python -m msm_jax.evaluate --output=runs/aft/agents --phase=inspect",
         makes=("runs/aft/agents/inspect/*.eval",)),
    Step("python -m msm_jax.evals.power", says="300"),
    Step("python -m msm_jax.evals.power --pairs=0.14:0.07", says="300"),
    Step("python -m msm_jax.evals.power --pairs=0.14:0.07,0.54:0.07 --conditions=27", says="300"),
    Step("python -m msm_jax.compile --config=configs/scale/qwen.py:qwen3-8b,lora,v5p-64 --mesh=8",
         "--mesh=2 --nodecode --config.model.preset= --config.model.vocab_size=256 "
         "--config.sequence_length=64 --config.rows=4 --config.model.lora_rank=4 "
         "--config.model.layers=1",
         says="per device"),
]  # fmt: skip

# Run by another test: pattern of the command -> file, or file::test.
ELSEWHERE = {
    "make real": "tests/study/test_shipped.py",
    "python tests/fuzz*": "tests/test_security.py::"
    "test_broken_files_are_read_or_refused_by_one_message",
    "python -m msm_jax.study --config=configs/released.py*": "tests/study/test_shipped.py",
    "python -m msm_jax.study --config=configs/paper/*": "tests/study/test_paper.py",
    "make fig4 MODE=miniature": "tests/docs/test_scripts.py",
    "make test": ".ci/run",
    "make lint": ".ci/run",
    "make .venv/.installed-test": ".ci/run",
    "make docs": "tests/docs/test_site.py::test_it_builds_without_a_warning",
    "inspect eval *": "tests/evals/agents/test_inspection.py::"
    "test_the_command_line_from_end_to_end",
    "inspect eval-retry": "tests/evals/agents/test_inspection.py::"
    "test_a_failed_run_is_taken_up_by_eval_retry",
    "inspect view*": "tests/evals/agents/test_inspection.py::test_inspect_view_lists_our_log",
    "python -m msm_jax.convert --source=* --check --dtype=int8*": "tests/test_load.py::"
    "test_the_command_converts_and_checks",
    "python -m msm_jax.evals.reasons *": "tests/evals/agents/test_reasons.py::"
    "test_the_command_reads_judged_agents",
    "python -m msm_jax.convert --source=*.gguf *": "tests/weights/test_gguf_files.py::"
    "test_the_command_converts_and_others_name_it",
    "pytest tests/*": ".ci/run",
    "launch/*": "tests/launch/test_launch.py",
    "python -m msm_jax.doctor": "tests/test_doctor.py",
    "* --config=configs/miniature.py:smoke --workdir=runs/smoke": "tests/conftest.py",
    "make notebooks": "tests/notebooks/test_notebooks.py",
    "jupytext *": "tests/notebooks/test_notebooks.py::"
    "test_jupytext_reads_the_pair_as_the_same_notebook",
}


PAGE = """
Text with `make miniature`, a name as `python -m msm_jax.train`, and `msm_jax.load`.

    python -m msm_jax.study --config=a.py \\
        --workdir=b   # a remark
    X=1 .venv/bin/python -m msm_jax.sample --checkpoint=c  # needs a GPU
    # takes an hour
    make test

    pip install peft

| `python benchmarks/x.py --rounds 3` <!-- takes minutes --> | and `make docs` |
| `python benchmarks/y.py` | |

```sh
python -m msm_jax.compile --mesh=8
```

```python
import msm_jax
python = "no command"
```
"""


def test_commands_are_found_and_what_they_need_is_read():
    found = {c.text: (c.where, c.needs, c.whole) for c in commands.commands_of(PAGE, "p.md")}
    assert found == {
        "python -m msm_jax.study --config=a.py --workdir=b": ("p.md:4", "", True),
        "python -m msm_jax.sample --checkpoint=c": ("p.md:6", "needs a GPU", True),
        "make test": ("p.md:8", "takes an hour", True),
        "pip install peft": ("p.md:10", "", True),
        "python -m msm_jax.compile --mesh=8": ("p.md:16", "", True),
        "make miniature": ("p.md:2", "", True),
        "python -m msm_jax.train": ("p.md:2", "", False),
        "python benchmarks/x.py --rounds 3": ("p.md:12", "takes minutes", True),
        "make docs": ("p.md:12", "takes minutes", True),
        "python benchmarks/y.py": ("p.md:13", "", True),
    }


def test_every_documented_command_is_run_somewhere_or_says_what_it_needs():
    here = {step.command for step in RUN}
    homeless = [
        f"{command.where}: {command.text}"
        for command in DOCUMENTED
        if command.whole
        and not command.needs
        and command.text not in here
        and not command.text.startswith("pip install")
        and not any(fnmatch.fnmatchcase(command.text, pattern) for pattern in ELSEWHERE)
    ]
    assert not homeless, (
        "add these to RUN or ELSEWHERE in tests/docs/test_commands.py, or mark them where they "
        "stand, such as `# needs a TPU` or `# takes an hour`:\n" + "\n".join(homeless)
    )


def test_the_tables_name_what_is_documented_and_what_exists():
    documented = {command.text for command in DOCUMENTED}
    gone = [step.command for step in RUN if step.documented and step.command not in documented]
    assert not gone, "no page shows these any more:\n" + "\n".join(gone)
    for pattern, place in ELSEWHERE.items():
        if fnmatch.filter(documented, pattern):
            assert exists(place), f"{pattern}: there is no {place}"


def test_every_test_that_the_pages_name_exists():
    named = collections.defaultdict(list)
    for page in commands.pages():
        for place in re.findall(r"`(tests/[\w/.:]+)`", page.read_text(encoding="utf-8")):
            named[place].append(page.name)
    assert len(named) > 50
    missing = {place: where for place, where in named.items() if not exists(place)}
    assert not missing


def exists(place: str) -> bool:
    """Whether a file, a folder or file::test is there."""
    name, _, function = place.partition("::")
    path = ROOT / name
    if not function or not path.is_file():
        return path.exists() and not function
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(getattr(node, "name", "") == function for node in ast.walk(tree))


def test_every_flag_and_every_key_exists():
    by_module = collections.defaultdict(dict)
    for command in DOCUMENTED:
        if command.module and command.whole:
            by_module[command.module].setdefault(command.text, command)  # some are on many pages
    wrong = []
    for module, shown in by_module.items():
        arguments = [command.arguments for command in shown.values()]
        errors = command_flags.probe(module, arguments)["errors"]
        pairs = zip(shown.values(), errors, strict=True)
        wrong += [f"{command.where}: {error}" for command, error in pairs if error]
    assert set(by_module) == set(command_modules())
    assert not wrong, "\n".join(wrong)


def command_modules() -> list[str]:
    """Everything that `python -m` runs."""
    files = [
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "msm_jax").rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    ]
    return sorted(".".join(path.parts).removesuffix(".__main__") for path in files)


def test_every_command_has_a_page_with_its_flags():
    texts = {path: path.read_text() for path in (ROOT / "docs" / "commands").glob("*.md")}
    modules = command_modules()
    assert len(modules) >= 8
    for module in modules:
        assert any(f"<!-- flags: {module} -->" in text for text in texts.values()), (
            f"{module}: write docs/commands/{module.rpartition('.')[2]}.md, add it to mkdocs.yml"
        )


def test_what_is_no_flag_or_key_is_found():
    argvs = [
        ["--config=configs/miniature.py", "--workdir=x", "--config.stages.aft.stepps=3"],
        ["--config=configs/no_such_file.py", "--workdir=x"],
        ["--config=configs/miniature.py", "--work_dir=x"],
        ["--config=configs/miniature.py"],
        ["--config=configs/miniature.py", "--workdir=x", "more"],
        ["--config=configs/miniature.py", "--workdir=x", "--config.stages.aft.steps=3"],
    ]
    *wrong, right = command_flags.probe("msm_jax.study", argvs)["errors"]
    assert all(wrong) and right is None


def test_modules_scripts_targets_and_extras_exist():
    extras = re.findall(r'^ {8}"(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    for command in DOCUMENTED:
        words = shlex.split(command.text.replace("'", ""))
        program, rest = words[0], words[1:]
        if command.module and "NAME" not in command.text:
            place = ROOT / command.module.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), command
        elif program == "python" and rest and rest[0] != "-m":
            script = ROOT / rest[0]
            source = (script / "__main__.py" if script.is_dir() else script).read_text()
            for flag in re.findall(r"--([\w-]+)", command.text):
                assert f'"--{flag}"' in source or f'("{flag}"' in source, command
        elif program == "make" and rest:
            target = re.escape(rest[0].replace(".venv", "$(VENV)"))
            assert re.search(rf"^(?:\S+ )*{target}(?: \S+)*:", makefile, re.MULTILINE), command
        elif program == "pip":
            for extra in re.findall(r"msm_jax\[([a-z,]+)\]", command.text):
                assert set(extra.split(",")) <= set(extras), command
        elif "launch/" in program:
            assert (ROOT / program).is_file(), command


@pytest.mark.parametrize("step", RUN, ids=lambda step: step.command)
def test_it_runs(step, run, scratch):
    words = words_of(step.command.replace("stages/ID", f"stages/{stage_id(scratch)}"))
    done = run(*words, *step.also.split(), stdin=step.stdin)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert re.search(step.says, said), said
    for path in step.makes:
        assert list(scratch.glob(path)), f"there is no {path}:\n{said}"


def words_of(command: str) -> list[str]:
    """The words of a documented command, with this Python and this checkout."""
    program, *words = shlex.split(command)
    if program == "python":
        return [sys.executable, *words]
    if program == "make":  # with this environment, which is not to be installed again
        ready, makefile = f"{sys.prefix}/.installed", f"--file={ROOT}/Makefile"
        return [program, *words, makefile, f"VENV={sys.prefix}", "-o", ready]
    return [program, *words]


def stage_id(scratch: pathlib.Path) -> str:
    """A fine-tuned stage of runs/miniature; "ID" while there is none."""
    marks = [json.loads(p.read_text()) for p in scratch.glob("runs/miniature/stages/*/stage.json")]
    return next((mark["id"] for mark in marks if mark["path"][-1:] == ["aft"]), "ID")


def test_files_have_the_keys_that_their_page_says(scratch):
    """After the commands above; keys that the page calls absent or of some lines may lack."""
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    tables = re.findall(r"<!-- keys of: (\S+) -->\n\n((?:\|.*\n)+)", page)
    assert len(tables) >= 9
    for pattern, table in tables:
        said = {}
        for row in table.splitlines()[2:]:
            names, about = row.strip("| ").split(" | ", 1)
            said |= dict.fromkeys(re.findall(r"`([\w/]+)`", names), about)
        found = set()
        for file in scratch.glob(pattern):
            text = file.read_text(encoding="utf-8")
            rows = text.splitlines() if file.suffix == ".jsonl" else [text]
            found |= {key for row in rows for key in json.loads(row)}
        assert found, pattern
        assert found <= set(said), (pattern, found - set(said))
        lacking = {
            key for key in set(said) - found if not re.search("absent|of their own", said[key])
        }
        assert not lacking, (pattern, lacking)


def test_python_on_the_pages_runs(scratch, run):
    blocks = []
    for page in commands.pages():
        text = page.read_text(encoding="utf-8")
        fenced = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        indented = re.findall(r"^    (import msm_jax\n(?:    .*\n|\n(?=    ))+)", text, re.M)
        blocks += [
            (page, block) for block in fenced + [re.sub("(?m)^    ", "", b) for b in indented]
        ]
    assert len(blocks) >= 3
    # In one process, each block by itself, as in a notebook that is begun anew.
    stage = f"stages/{stage_id(scratch)}"
    named = [(page.name, re.sub(r"stages/(?:ID|<id>)", stage, block)) for page, block in blocks]
    program = (
        "import sys\n"
        f"for page, block in {named!r}:\n"
        "    print(page, block, file=sys.stderr)\n"
        "    exec(compile(block, page, 'exec'), {})\n"
    )
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
