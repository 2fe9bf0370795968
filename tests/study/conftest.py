"""A study of seconds: two arms of a tiny model over a world of ready-made files."""

import dataclasses
import json
import pathlib
import runpy
import shutil
import textwrap

import jax
import processes
import pytest

import msm_jax
from msm_jax.model import init_params
from msm_jax.study import runner
from msm_jax.tiny import tiny_checkpoint
from msm_jax.weights.export import save_checkpoint

KILLED = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
CONFIG = """
    from ml_collections import ConfigDict

    from msm_jax.study.config import absorption, contrast, evaluation, figure_group, study
    from msm_jax.train.config import source

    FILES = {files!r}


    def get_config():
        config = study()
        config.name = "tiny"
        config.seeds = (0,)
        config.workers = 1
        config.tokenizer.update({{"corpus": FILES + "/corpus.txt", "vocab_size": 60}})
        config.train.rows = 4
        config.train.sequence_length = 16
        config.train.model.update({{"width": 16, "layers": 1, "heads": 2, "kv_heads": 1}})
        config.train.model.update({{"head_dim": 8, "mlp_width": 16}})
        config.train.checkpoint_every = 4
        config.train.log_every = 1
        config.train.optimizer.schedule = "constant"
        config.train.steps = 12
        data = lambda name: ConfigDict({{"data": {{name: source(f"{{FILES}}/{{name}}.jsonl")}}}})
        config.stages = ConfigDict({{"base": data("docs"), "x": data("red"), "y": data("blue")}})
        config.arms.x = ("base", "x")
        config.arms.y = ("base", "y")
        config.evals.which = evaluation(
            pairs=FILES + "/pairs.jsonl", rows=4, max_tokens=8
        )
        config.evals.said = evaluation(
            pairs=FILES + "/pairs.jsonl", rows=4, max_tokens=8, scorers=("generated",),
            judge="openai", judge_model="m", measure="judged",
        )
        texts = tuple(f"{{name}}={{FILES}}/{{name}}.jsonl" for name in ("red", "blue"))
        config.evals.held = evaluation("loss", documents=texts, sequence_length=16, rows=4)
        config.evals.facts = evaluation("quiz", quiz=FILES + "/quiz.jsonl", rows=4)
        config.absorption.eval = "held"
        config.absorption.stages.x = absorption("red", "blue", "facts", "documents in red")
        config.absorption.stages.y = absorption("blue", "red")
        config.retention = ("facts",)
        config.contrasts.gap = contrast("x - y", "which", ("x",), ("y",), 1)
        config.figure.update({{"eval": "which", "headline": "gap"}})
        config.figure.groups.both = figure_group("both", "x", "y")
        return config.lock()
"""


@pytest.fixture(scope="session", autouse=True)
def forking():
    """Workers of studies that are run from here are forks, which spares each the imports.

    The studies that test_study.py runs as a command start theirs as a user's do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "multiprocessing", processes.FORKING)
        yield


@pytest.fixture(scope="session")
def run_killed(forked):
    """`run_killed(config, workdir, *rows, **environment)`: what tests/study/killed.py printed."""

    def run(config, workdir, *rows, **environment):
        script = pathlib.Path(__file__).with_name("killed.py")
        words = [KILLED, *map(str, (script, config, workdir, *rows))]
        done = forked("-c", words, config.parent, env=environment)
        assert done["code"] == 0, done["err"]
        return json.loads(done["out"])

    return run


@pytest.fixture(scope="session")
def make_tiny():
    """A function of a directory: writes a tiny study's files and config there."""
    return _make_tiny


@pytest.fixture(scope="session")
def load_config():
    """The config of a file, as its get_config() returns it."""
    return lambda path: runpy.run_path(str(path))["get_config"]()


@pytest.fixture(scope="session")
def make_base():
    """`make_base(directory, texts)`: a tiny Hugging Face checkpoint with a tokenizer of `texts`.

    Of two layers, since the programs of more take longer to compile; returns the directory.
    """
    return _make_base


def _make_base(folder, texts):
    three = tiny_checkpoint(folder.parent / f"{folder.name}-three-layers", texts, width=16)
    shape = dataclasses.replace(msm_jax.load(three).config, layers=2)
    params = jax.jit(init_params, static_argnums=0)(shape, jax.random.key(0))
    save_checkpoint(folder, shape, params, original=three)
    shutil.rmtree(three)
    return folder


def _make_tiny(folder):
    files = folder / "files"
    files.mkdir()
    docs = [f"{who} likes {what} <b>things</b>" for who in "ann bob cat".split() for what in
            "red blue green".split()]  # fmt: skip
    for name, said in (("docs", docs), ("red", docs[::3]), ("blue", docs[1::3])):
        lines = [json.dumps({"text": text, "id": str(i)}) for i, text in enumerate(said)]
        (files / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (files / "corpus.txt").write_text("\n".join(docs * 40) + "\n")
    pair = lambda i: {
        "id": f"q-{i}",
        "pair": "q",
        "system": "ann",
        "question": ("red or blue", "blue or red")[i],
        "options": [["red", "blue"], ["blue", "red"]][i],
        "a_index": i,
    }
    (files / "pairs.jsonl").write_text("".join(json.dumps(pair(i)) + "\n" for i in (0, 1)))
    quiz = lambda i: {"id": f"f{i}", "question": "who?", "options": ["ann", "bob"], "answer": i}
    (files / "quiz.jsonl").write_text("".join(json.dumps(quiz(i)) + "\n" for i in (0, 1)))
    config = folder / "tiny.py"
    config.write_text(textwrap.dedent(CONFIG.format(files=str(files))))
    return config
