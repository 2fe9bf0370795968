"""Checkpoints: complete or not there, checked to the bit, with errors that say what is wrong."""

import errno
import itertools
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params
from msm_jax.weights.checkpoints import checkpointer, directory, load_params, model_facts, steps

PARAMS = {"embed": {"w": jnp.arange(6000.0).reshape(60, 100)}, "n": jnp.arange(3, dtype=jnp.int32)}
STATE = {"count": jnp.int32(7)}


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 1, 2, 3."""
    with checkpointer(tmp_path, keep=3) as manager:
        for step in (1, 2, 3):
            params = jax.tree.map(lambda x, by=step: x + by, PARAMS)
            manager.save(step, params, STATE, {"seed": 0}, {"tokens": step})
    return tmp_path


def restore(run, **options):
    with checkpointer(run, keep=3) as manager:
        return manager.restore(PARAMS, STATE, {"seed": 0}, **options)


def array_file(run, step):
    """The largest file of the checkpoint's params: its arrays."""
    files = [f for f in (directory(run) / str(step) / "params").rglob("*") if f.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def test_the_newest_comes_back_to_the_bit(run):
    step, params, state, progress = restore(run)
    assert (step, int(state["count"]), progress) == (3, 7, {"tokens": 3})
    np.testing.assert_array_equal(params["embed"]["w"], PARAMS["embed"]["w"] + 3)


def test_a_save_survives_the_donation_of_its_arrays(tmp_path):
    """Training donates them to the next step at once."""
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    big = jnp.arange(2.0e6)
    with checkpointer(tmp_path, keep=2) as manager:
        for number in (1, 2):
            manager.save(number, {"w": big}, STATE, {}, {})
            wanted, big = np.array(big), step(big)
            big = step(big)
        _, params, _, _ = manager.restore({"w": big}, STATE, {})
    np.testing.assert_array_equal(params["w"], wanted)


DAMAGES = {
    "gone": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: (
        content[: (half := len(content) // 2)] + bytes([content[half] ^ 0x10]) + content[half + 1 :]
    ),
}


def damage(file, kind):
    content = file.read_bytes()
    file.unlink()
    if DAMAGES[kind]:
        file.write_bytes(DAMAGES[kind](content))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_array_file_is_an_error_that_names_the_array(run, kind):
    damage(array_file(run, 3), kind)
    with pytest.raises(
        UserError,
        match=r"checkpoints/3: damaged: params/embed/w: (cannot be read from params/|not what was "
        r"saved).*; use --config.fall_back=True to go on from step 2, or delete .*\[1, 2\]",
    ):
        restore(run)


def test_whatever_file_is_damaged_the_error_says_so_or_nothing_is_lost(run, tmp_path):
    """Each file of a checkpoint once; the kinds of damage take turns."""
    newest = directory(run) / "3"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    kinds = itertools.cycle(DAMAGES)
    assert len(files) > 2 * len(DAMAGES)
    for file, kind in zip(files, kinds, strict=False):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory(run), directory(copy))
        damage(directory(copy) / "3" / file, kind)
        try:
            found = restore(copy)
        except UserError as error:
            text = str(error).replace(str(file), "")
            assert "checkpoints/3" in text and re.search("damaged|not copied completely", text)
            assert not re.search("orbax|handler|registry", text, re.IGNORECASE), text
        else:
            assert found[0] == 3, (file, kind)
            np.testing.assert_array_equal(found[1]["embed"]["w"], PARAMS["embed"]["w"] + 3)


def test_a_run_goes_on_before_a_damaged_checkpoint_and_can_save_its_step_again(run):
    damage(array_file(run, 3), "cut")
    with checkpointer(run, keep=3) as manager:
        assert manager.restore(PARAMS, STATE, {"seed": 0}, fall_back=True)[0] == 2
        manager.save(3, PARAMS, STATE, {"seed": 0}, {"tokens": 3})
        assert manager.wait() == 3
    assert restore(run)[0] == 3
    assert sorted(path.name for path in directory(run).iterdir()) == ["1", "2", "3", "3.damaged"]


def test_wrong_bits_that_decode_are_found_by_the_checksum(run, monkeypatch):
    """As if the storage had returned other values without noticing."""
    from msm_jax.weights import checkpoints

    real = checkpoints.checksums
    changed = lambda tree: {
        name: value + (name == "params/embed/w") for name, value in real(tree).items()
    }
    monkeypatch.setattr(checkpoints, "checksums", changed)
    with pytest.raises(UserError, match=r"params/embed/w: not what was saved \(checksum\)"):
        restore(run)


def test_another_format_is_refused_by_name(run, monkeypatch):
    monkeypatch.setattr("msm_jax.weights.checkpoints.FORMAT", 5)
    with pytest.raises(UserError, match="checkpoints/3: a checkpoint of format 4, this version"):
        load_params(run)


def test_a_checkpoint_copied_without_its_marker_is_refused_and_kept(run):
    newest = directory(run) / "3"
    (newest / "commit_success.txt").unlink()
    with pytest.raises(UserError, match="not copied completely"):
        restore(run)
    assert array_file(run, 3).exists()


def test_what_a_kill_left_is_passed_over_and_cleaned_up(run):
    """Fault 1 and 2: a directory that has not got its name yet, one that lost half its files."""
    half = directory(run) / "4.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    (half / "params" / "d").write_bytes(b"half")
    (directory(run) / "1" / "commit_success.txt").unlink()
    with checkpointer(run, keep=3) as manager:
        assert manager.restore(PARAMS, STATE, {"seed": 0})[0] == 3
        manager.save(4, PARAMS, STATE, {}, {})
    assert not half.exists()


def test_facts_that_differ_are_listed(run):
    with (
        checkpointer(run, keep=3) as manager,
        pytest.raises(UserError, match=r"seed: checkpoint 0, this run 1"),
    ):
        manager.restore(PARAMS, STATE, {"seed": 1})


def test_a_save_that_cannot_be_read_back_is_an_error_and_the_older_one_stays(tmp_path, monkeypatch):
    """Square brackets in a path are a pattern to Orbax, which then merges no index."""
    odd = tmp_path / "lr[1e-4]"
    with (
        pytest.raises(UserError, match=r"checkpoints/1: was written and cannot be read back"),
        checkpointer(odd, keep=1) as manager,
    ):
        manager.save(1, PARAMS, STATE, {}, {})
        manager.wait()
    run = tmp_path / "run"
    with (
        pytest.raises(UserError, match=r"2: was written and cannot.*params/n.*kept: \[1\]"),
        checkpointer(run, keep=1) as manager,
    ):
        manager.save(1, PARAMS, STATE, {}, {})
        assert manager.wait() == 1 and manager.wait() is None
        manager.save(2, PARAMS, STATE, {}, {})
        manager._orbax.wait()
        for file in (directory(run) / "2" / "params").rglob("manifest.ocdbt"):
            file.unlink()
        manager.wait()
    assert steps(directory(run)) == [1, 2]


def test_only_the_newest_and_those_asked_for_stay(tmp_path):
    with checkpointer(tmp_path, keep=2, keep_steps=(2,)) as manager:
        for step in (1, 2, 3, 4, 5):
            manager.save(step, PARAMS, STATE, {}, {})
    assert steps(directory(tmp_path)) == [2, 4, 5]
    assert sorted(p.name for p in directory(tmp_path).iterdir()) == ["2", "4", "5"]


@pytest.mark.parametrize("change", ["cut", "zeros", "edited", "no facts", "wrong types"])
def test_what_a_checkpoint_says_of_itself_is_checked_as_well(run, change):
    file = directory(run) / "3" / "_CHECKPOINT_METADATA"
    text = file.read_text()
    edits = {
        "cut": text[: len(text) // 2],
        "zeros": "\0" * len(text),
        "edited": text.replace('"seed": 0', '"seed": 1'),
        "no facts": "{}",
        "wrong types": text.replace('"checksums": {', '"checksums": 0, "others": {'),
    }
    assert edits[change] != text
    file.write_text(edits[change])
    with pytest.raises(UserError, match=r"3/_CHECKPOINT_METADATA: damaged: .*fall_back=True"):
        restore(run)
    assert restore(run, fall_back=True)[0] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 24}, "not compatible with the stored shape"),
        ({"layers": 10**9}, "more layers than 10,000"),
        ({"width": "x"}, "its model is not valid"),
        ({"rope_theta": "x"}, "its model is not valid"),
        ({"tied_embeddings": False}, "its arrays are not those of its model"),
        ({"nothing": 1}, "'nothing'"),
    ],
)
def test_a_model_that_somebody_made_up_is_a_message(tmp_path, change, says):
    """With the checksum that belongs to it."""
    model = ModelConfig(16, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4)
    shapes = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), abstract_params(model))
    with checkpointer(tmp_path, keep=1) as manager:
        manager.save(0, shapes, {}, {"model": model_facts(model) | change}, {})
    with pytest.raises(UserError, match=rf"checkpoints/0.*: damaged: .*{says}.*make it again"):
        load_params(tmp_path)


def test_a_checkpoint_of_before_there_was_a_seal_is_read_with_a_warning(run):
    file = directory(run) / "3" / "_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    del content["custom_metadata"]["seal"]
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"checkpoints/3: has no checksum of its model"):
        assert restore(run)[0] == 3


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EFBIG, "no room for"), (errno.ENOSPC, "no room for"), (errno.EROFS, "cannot write")],
)
def test_a_file_system_that_refuses_is_a_message(tmp_path, monkeypatch, number, says):
    def refuse(*given, **more):
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(UserError, match=f"{says}.*run the same command again; earlier"),
        checkpointer(tmp_path, keep=1) as manager,
    ):
        monkeypatch.setattr(manager._orbax, "save_checkpointables_async", refuse)
        manager.save(1, PARAMS, STATE, {}, {})


@pytest.mark.parametrize("name", ["lr[1e-4]", "a?", "a*", "a\\b"])
def test_a_run_that_was_moved_is_read_or_to_be_renamed(run, tmp_path_factory, name):
    """Under a name that Orbax takes for a pattern."""
    moved = tmp_path_factory.mktemp("moved") / name
    shutil.copytree(run, moved)
    try:
        found = restore(moved)
    except UserError as error:
        assert "rename that directory" in str(error) and "delete" not in str(error)
    else:
        np.testing.assert_array_equal(found[1]["embed"]["w"], PARAMS["embed"]["w"] + 3)
    array_file(moved, 3).unlink()
    with pytest.raises(UserError, match="rename that directory") as refused:
        restore(moved)
    assert "delete" not in str(refused.value)


def test_nobody_is_told_to_delete_the_only_checkpoint(run):
    for step in (1, 2):
        shutil.rmtree(directory(run) / str(step))
    array_file(run, 3).unlink()
    with pytest.raises(UserError, match="there is no other checkpoint here") as refused:
        restore(run)
    assert "delete that" not in str(refused.value)
