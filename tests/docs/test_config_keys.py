"""Every key of every config that comes along has an explanation where it stands."""

import config_keys
import pytest
from ml_collections import ConfigDict

SHIPPED = {config.path: config for config in config_keys.shipped()}


@pytest.mark.parametrize("form", config_keys.FORMS)
def test_every_key_of_a_form_is_explained(form):
    silent = [key.path for key in config_keys.keys(form) if not key.text and not key.inside]
    assert not silent, f"{config_keys.FORMS[form]}: write a comment beside these keys"


@pytest.mark.parametrize("form", config_keys.FORMS)
def test_no_key_of_a_form_is_overlooked(form):
    found = {key.path for key in config_keys.keys(form)}
    made = config_keys._defaults(form)
    inner = [key.path for key in config_keys.keys(form) if key.inside and not key.named]
    wanted = {
        path
        for path in config_keys.leaves(made)
        if not any(path.startswith(f"{name}.") for name in inner)
    }
    assert wanted <= found
    assert all(config_keys._at(made, path) is not None for path in found)


@pytest.mark.parametrize("path", SHIPPED)
def test_every_key_of_a_shipped_config_is_explained(path):
    config = SHIPPED[path]
    assert config.command, f"{path}: its docstring has no command with --config={path}"
    for argument in ("", *config.arguments):
        names = config_keys.leaves(config.load(argument))
        assert names
        explained = {name: _explanation(config.command, name) for name in names}
        silent = [name for name, text in explained.items() if not text]
        assert not silent, f"{path}:{argument}"


def _explanation(command: str, name: str) -> str | None:
    if command == "evaluate":
        from msm_jax.evals.kinds import SETTINGS

        return SETTINGS[name].help if name in SETTINGS else "a flag" if name == "kind" else None
    return config_keys.explain(config_keys.COMMANDS[command], name)


def test_lab_records_are_lab_records():
    for path, config in SHIPPED.items():
        for label in ("command", "hardware", "time", "result"):
            assert f"\n    {label} " in config.docstring, f"{path}: its docstring has no {label}"


def test_names_of_the_users_are_looked_through():
    explain = config_keys.explain
    assert explain("study", "stages.any.data.chats.loss_on") == explain("source", "loss_on")
    assert explain("study", "train.optimizer.eps") == explain("stage", "optimizer.eps")
    assert explain("study", "world.options.agents") == explain("WorldConfig", "agents")
    assert explain("study", "arms.any") == explain("study", "arms")
    assert explain("stage", "optimizer.epps") is None
    assert explain("study", "stages.any.epps") is None


def test_a_key_without_an_explanation_is_found(tmp_path, monkeypatch):
    source = '''
def form(known=1):
    """Some keys.

    known: from the docstring,
      over two lines.
    """
    # above
    config.one = 1
    config.two = 2  # behind
    config.three = 3
    # of the group
    config.four = ConfigDict({"a": 1, "b": 2})
    config.five = ConfigDict(
        {
            # above in it
            "c": 1,
            "d": 2,
        }
    )
    return ConfigDict(
        {
            "known": known,
        }
    )
'''
    (tmp_path / "form.py").write_text(source)
    monkeypatch.setattr(config_keys, "ROOT", tmp_path)
    monkeypatch.setitem(config_keys.FORMS, "form", "form.py")
    made = ConfigDict({"one": 1, "two": 2, "three": 3, "four": {"a": 1, "b": 2}, "known": 1})
    made.five = ConfigDict({"c": 1, "d": 2})
    monkeypatch.setattr(config_keys, "_defaults", lambda form: made)
    assert {key.path: key.text for key in config_keys.keys("form")} == {
        "one": "above",
        "two": "behind",
        "three": "",
        "four": "of the group",
        "four.a": "",
        "four.b": "",
        "five": "",
        "five.c": "above in it",
        "five.d": "",
        "known": "from the docstring, over two lines.",
    }
