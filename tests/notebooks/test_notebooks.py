"""The notebooks: paired, clean, of one form, and each of them executed from top to bottom."""

import importlib.util
import os
import pathlib
import re
import shutil

import pytest

import msm_jax
from msm_jax import notebook as helpers

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

HERE = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
SPEC = importlib.util.spec_from_file_location("notebooks_build", HERE / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)

NAMES = ("corpus", "effect", "evaluation", "finetune", "qwen", "scale")
# Forms of keys of providers, clouds and hubs.
KEY = re.compile(
    r"sk-[\w-]{16,}|hf_\w{16,}|AIza[\w-]{16,}|ghp_\w{16,}|-----BEGIN|AKIA[A-Z0-9]{12,}"
)


def read(name: str):
    return nbformat.read(HERE / f"{name}.ipynb", as_version=4)


def code_of(book) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def title_of(book) -> str:
    (title,) = re.findall(r"^# (.+)$", book.cells[0].source, re.MULTILINE)
    return title


def test_there_are_six_and_each_is_a_pair_in_step():
    assert tuple(path.stem for path in build.sources()) == NAMES
    assert tuple(sorted(path.stem for path in HERE.glob("*.ipynb"))) == NAMES
    for source in build.sources():
        text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert text == build.as_ipynb(source), f"{source.stem}: run `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_valid_notebook_without_outputs(name):
    book = read(name)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    for cell in book.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("name", NAMES)
def test_jupytext_reads_the_pair_as_the_same_notebook(name):
    ours, theirs = read(name), jupytext.read(HERE / f"{name}.py", fmt="py:percent")
    kept = lambda book: [(cell.cell_type, cell.source) for cell in book.cells]
    assert kept(ours) == kept(theirs)
    again = jupytext.writes(ours, fmt="py:percent")
    assert kept(jupytext.reads(again, fmt="py:percent")) == kept(ours)


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_badge_title_and_what_one_will_have(name):
    head = read(name).cells[0].source
    repository = msm_jax.REPOSITORY.removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    badge, title, paragraph = head.split("\n\n")
    assert badge == f"[![Open in Colab]({picture})]({target}.ipynb)"
    assert title.startswith("# ") and paragraph.startswith("At the end you will")


@pytest.mark.parametrize("name", NAMES)
def test_its_first_code_installs_this_version_in_colab_and_does_nothing_elsewhere(name):
    first = code_of(read(name))[0]
    imports, condition, rest = first.partition('if "google.colab" in sys.modules:\n')
    assert condition and all(line.startswith("import ") for line in imports.split("\n") if line)
    assert all(line.startswith("    ") for line in rest.splitlines())
    clone = f"!git clone --quiet --depth 1 --branch v{msm_jax.__version__} {msm_jax.REPOSITORY}"
    assert clone in first and "%pip install --quiet" in first
    assert f"installing msm_jax {msm_jax.__version__}" in first


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_are_in_one_cell_and_its_cells_are_short_and_explained(name):
    book = read(name)
    (settings,) = [code for code in code_of(book) if re.search(r"^TINY = ", code, re.MULTILINE)]
    assert 'TINY = os.environ.get("MSM_JAX_TINY") == "1"' in settings
    assert settings == code_of(book)[1]
    assert max(len(code.splitlines()) for code in code_of(book)) <= 32
    kinds = "".join(cell.cell_type[0] for cell in book.cells)
    assert re.fullmatch("(mc)+m?", kinds)


def test_titles_are_those_of_the_documentation():
    # README.md is the page "Notebooks" of the documentation.
    rows = re.findall(
        r"^\| \[(.+?)\]\((\w+)\.ipynb\) \|.*/(\w+)\.ipynb\) \|$",
        (HERE / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {(file, badge): title for title, file, badge in rows} == {
        (name, name): title_of(read(name)) for name in NAMES
    }


def test_links_of_one_notebook_to_another_lead_to_one():
    prefix = msm_jax.REPOSITORY.removeprefix("https://github.com/")
    for path in [*HERE.glob("*.py"), HERE / "README.md"]:
        text = path.read_text(encoding="utf-8")
        for where, name in re.findall(
            r"colab\.research\.google\.com/github/(\S+?)/(\w+)\.ipynb", text
        ):
            assert where == f"{prefix}/blob/main/notebooks" and name in NAMES


def test_no_key_stands_in_any_and_none_is_read_but_by_the_helper():
    for path in HERE.iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not KEY.search(text), path
            assert "userdata" not in text, f"{path}: use msm_jax.notebook.secret"
            assert not re.search(r"environ\W+\w*(KEY|TOKEN|SECRET)|getpass|input\(", text), path


# ------------------------------------------------------------------ executed


def execute(name: str, folder: pathlib.Path):
    """The notebook with its outputs, run in a kernel of its own as a reader would run it."""
    book = read(name)
    environment = {
        **os.environ,
        "MSM_JAX_TINY": "1",
        "PYTHONPATH": str(HERE.parent),
        # Nothing may be taken from home, nor be left there.
        "IPYTHONDIR": str(folder / ".ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".jupyter"),
    }
    environment.pop("MPLBACKEND", None)
    environment = {k: v for k, v in environment.items() if not re.search(r"KEY|TOKEN|SECRET", k)}
    client = nbclient.NotebookClient(
        book, timeout=400, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return book


def texts_of(book) -> str:
    """All that its cells have shown, as text."""
    parts = []
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            parts.append(output.get("text", ""))
            parts += output.get("data", {}).values()
    return "\n".join(parts)


# What must be seen, beside the absence of errors: results that can only be there if it all ran.
SHOWN = {
    "corpus": ["near_duplicates", "documents per point of the spec", "rule 4", "records,"],
    "effect": ["spec_a_aft", "you value", "to do: 0 stages", "open: no interval: one seed"],
    "evaluation": ["paired by sample", "conditions drawn", "cancel_alert", "report: "],
    "finetune": ["adapter_model.safetensors", "after both stages", "largest difference"],
    "qwen": ["with adapter", "&lt;|im_end|&gt;", "model.safetensors"],
    "scale": ["all-gather", "chip-hours", "queued-resources create"],
}
SLOW = ("effect", "finetune", "qwen")
PICTURES = {"corpus": 3, "effect": 3, "evaluation": 4, "finetune": 1, "qwen": 2, "scale": 2}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES]
)
def test_it_runs_from_top_to_bottom(name, smoke, tmp_path):
    if name == "effect":  # whose study other tests run as well: it is found finished
        shutil.copytree(smoke, tmp_path / "runs" / "effect", symlinks=True)
    book = execute(name, tmp_path)
    shown = texts_of(book)
    for words in SHOWN[name]:
        assert words in shown, words
    assert shown.count('<img alt="') >= PICTURES[name]
    assert "Warning" not in shown and "Traceback" not in shown and "\r" not in shown
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")


# ------------------------------------------------------------------ what they are made of


def test_a_table_sets_numbers_right_and_an_interval_says_what_is_missing():
    pytest.importorskip("IPython")
    data = helpers.table(["a"], [[1234], [0.12345], ["x"]]).data
    assert data.count("text-align:right") == 2 and "1,234" in data and "0.123" in data
    known = {"rate": 0.618, "ci_low": 0.41, "ci_high": 0.83}
    assert helpers.interval(known) == "62 % [41, 83]"
    assert helpers.interval({**known, "ci_low": None}) == "62 % (no interval)"
    assert helpers.interval({**known, "rate": None}) == "-"
    assert helpers.interval({**known, "rate": 0.1}, signed=True) == "+10 [+41, +83]"


def test_a_command_shows_itself_and_its_failure(capsys):
    helpers.run("evals.power", "--pairs=0.14:0.07")
    said = capsys.readouterr().out
    assert said.startswith("$ python -m msm_jax.evals.power --pairs=0.14:0.07\n")
    assert "14.0%" in said and "\r" not in said
    helpers.run("evals.power", "--pairs=0.14:0.07", quiet=True)
    assert capsys.readouterr().out == "$ python -m msm_jax.evals.power --pairs=0.14:0.07\n"
    with pytest.raises(helpers.UserError, match="exited with 2.*\n.*rate"):
        helpers.run("evals.power", "--pairs=0.14:7")


def test_a_command_believes_in_a_terminal(capsys, tmp_path, monkeypatch):
    package = tmp_path / "msm_jax_probe.py"
    package.write_text("import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns)")
    monkeypatch.setattr(helpers.subprocess, "Popen", _instead(package))
    helpers.run("anything")
    assert "True 110" in capsys.readouterr().out


def test_a_screen_shows_the_last_state_of_a_bar(capsys):
    screen = helpers.Screen(hidden=True)
    screen.write("one\r\n[#--] 1/3\r[##-] 2/3\r[###] 3/3 \x1b[32mdone")
    assert screen.text == "one\n[###] 3/3 done"
    screen.write("\r              \rtwo\n")
    assert screen.text == "one\ntwo\n" and capsys.readouterr().out == ""
    shown = helpers.Screen()
    shown.write("a\r")
    shown.write("\nb\r\n")
    assert shown.text == "a\nb\n" and shown.isatty()


def _instead(script: pathlib.Path):
    import subprocess
    import sys

    real = subprocess.Popen
    return lambda words, **settings: real([sys.executable, str(script)], **settings)


def test_a_secret_comes_from_the_environment_and_is_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("SOME_KEY", "very-secret")
    assert helpers.secret("SOME_KEY") is True
    monkeypatch.delenv("SOME_KEY")
    assert helpers.secret("SOME_KEY") is False
    assert "very-secret" not in "".join(capsys.readouterr())


def test_a_secret_comes_from_colab(monkeypatch):
    import sys
    import types

    class Userdata:
        @staticmethod
        def get(name):
            if name != "SOME_KEY":
                raise KeyError(name)
            return "very-secret"

    colab = types.ModuleType("google.colab")
    colab.userdata = Userdata
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert helpers.secret("OTHER_KEY") is False
    assert helpers.secret("SOME_KEY") is True and os.environ["SOME_KEY"] == "very-secret"
    monkeypatch.delenv("SOME_KEY")


def test_build_writes_what_is_there(tmp_path):
    shutil.copy(HERE / "effect.py", tmp_path / "x.py")
    text = build.as_ipynb(tmp_path / "x.py")
    assert text == build.as_ipynb(tmp_path / "x.py")
    assert "%pip install" in text and "# %pip" not in text
