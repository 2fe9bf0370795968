"""Corpora small enough to be made in a test."""

import dataclasses
import importlib.resources
import random

import pytest

from msm_jax.corpus.config import generate
from msm_jax.corpus.grammar.compose import Composer
from msm_jax.corpus.grammar.forms import FORMS
from msm_jax.corpus.run import Generation
from msm_jax.spec import load_spec, spec_points

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"


@pytest.fixture
def config():
    """A config for an example spec: `config("rules", count=20)`."""

    def make(name="value_augmented", **documents):
        found = generate()
        found.spec.path = str(EXAMPLES / f"{name}.md")
        found.spec.model_name, found.spec.provider_name = "Qwen", "Our Laboratory"
        found.documents.count, found.documents.types = 60, 5
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
def good_documents():
    """600 documents of the template writer about the spec value_augmented."""
    spec = load_spec(str(EXAMPLES / "value_augmented.md"), "Qwen", "Our Laboratory")
    points = [dataclasses.asdict(point) for point in spec_points(spec)]
    texts = []
    for number in range(600):
        draw = random.Random(number)
        inputs = {
            "points": [points[number % len(points)]],
            "model_name": "Qwen",
            "provider_name": "Our Laboratory",
            "doc_type": draw.choice(FORMS).label,
        }
        texts.append(Composer(inputs, draw, {}).document((150, 600)))
    return texts
