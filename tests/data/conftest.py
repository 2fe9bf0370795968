"""Shared by the tests of chats: a small tokenizer that knows the control tokens of all styles."""

import pathlib
import sys

import pytest

from msm_jax.data.tokenizer import load_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import templates


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "tokenizer.json").write_text(templates.tokenizer_json())
    return load_tokenizer(folder)
