"""Corpora small enough to be made in a test."""

import functools
import importlib.resources
import json
import pathlib

import pytest

from msm_jax.corpus.config import generate
from msm_jax.corpus.run import Generation
from msm_jax.spec import load_spec

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"


@pytest.fixture(scope="session")
def config():
    """A config for an example spec: `config("rules", count=20)`."""

    def make(name="value_augmented", **documents):
        found = generate()
        found.writer.kind = "stub"
        found.spec.path = str(EXAMPLES / f"{name}.md")
        found.spec.model_name, found.spec.provider_name = "Qwen", "Our Laboratory"
        found.documents.count, found.documents.types = 40, 4
        found.documents.update(documents)
        return found

    return make


@pytest.fixture
def spec():
    """An example spec for Qwen."""
    return lambda name: load_spec(str(EXAMPLES / f"{name}.md"), "Qwen", "Our Laboratory")


@pytest.fixture
def run():
    """Makes a corpus; gives the manifest, and what was said in `run.said`."""

    def make(config, workdir, preview=False, **more):
        make.said = []
        return Generation(config, workdir, make.said.append, **more).run(preview)

    return make


@pytest.fixture(scope="session")
def made(config, tmp_path_factory):
    """The folder of the corpus of `config()`; nothing in it may be changed."""
    folder = tmp_path_factory.mktemp("made")
    Generation(config(), folder, lambda text: None).run()
    return folder


@pytest.fixture(scope="session")
def good_documents():
    """The 152 documents about affordability in corpora/larder."""
    path = pathlib.Path(__file__).parents[2] / "corpora/larder/documents/affordable.jsonl"
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    names = {"{model_name}": "Qwen", "{provider_name}": "Our Laboratory"}
    return [functools.reduce(lambda t, n: t.replace(*n), names.items(), r["text"]) for r in rows]
