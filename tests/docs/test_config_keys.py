"""Every key of every config that comes along is declared, with a meaning."""

import config_keys
import pytest

SHIPPED = {config.path: config for config in config_keys.shipped()}


@pytest.mark.parametrize("form", config_keys.FORMS.values(), ids=config_keys.FORMS)
def test_every_key_of_a_form_is_explained(form):
    silent = [path for path, part in config_keys.rows(form) if not part.meaning]
    assert not silent, f"{form.name}: say what these mean"
    assert {path for path, part in config_keys.rows(form)} >= set(form.keys)


@pytest.mark.parametrize("path", SHIPPED)
def test_every_key_of_a_shipped_config_is_explained(path):
    config = SHIPPED[path]
    assert config.command, f"{path}: its docstring has no command with --config={path}"
    for argument in ("", *config.arguments):
        names = config_keys.leaves(config.load(argument))
        assert names
        form, own = config_keys.COMMANDS[config.command], {"kind"}  # a flag of evaluate's
        unknown = [name for name in names if not config_keys.find(form, name) and name not in own]
        assert not unknown, f"{path}:{argument}"


def test_lab_records_are_lab_records():
    for path, config in SHIPPED.items():
        for label in ("command", "hardware", "time", "result"):
            assert f"\n    {label} " in config.docstring, f"{path}: its docstring has no {label}"


def test_names_of_the_users_are_looked_through():
    find, forms = config_keys.find, config_keys.FORMS
    assert find(forms["study"], "stages.any.data.chats.loss_on") is forms["source"].keys["loss_on"]
    assert find(forms["study"], "train.optimizer.eps") is find(forms["stage"], "optimizer.eps")
    options = find(forms["study"], "world.options")
    assert find(forms["study"], "world.options.personas") is options
    assert find(forms["study"], "arms.any").item
    assert find(forms["stage"], "optimizer.epps") is None
    assert find(forms["study"], "stages.any.epps") is None
