"""Checkpoints: complete or not there, checked to the bit, with errors that say what is wrong."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.weights.checkpoints import checkpointer, directory, load_params, steps

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


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_array_file_is_an_error_that_names_it(run, damage):
    file = array_file(run, 3)
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoints/3: .*delete that directory.*\[1, 2\]"):
        restore(run)
    assert restore(run, fall_back=True)[0] == 2


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
    assert restore(run)[0] == 3
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


@pytest.mark.parametrize("damage", ["cut", "zeros", "edited", "no facts"])
def test_what_a_checkpoint_says_of_itself_is_checked_as_well(run, damage):
    file = directory(run) / "3" / "_CHECKPOINT_METADATA"
    text = file.read_text()
    edits = {
        "cut": text[: len(text) // 2],
        "zeros": "\0" * len(text),
        "edited": text.replace('"seed": 0', '"seed": 1'),
        "no facts": "{}",
    }
    assert edits[damage] != text
    file.write_text(edits[damage])
    with pytest.raises(UserError, match=r"3/_CHECKPOINT_METADATA: (damaged|not what was saved)"):
        restore(run)
    assert restore(run, fall_back=True)[0] == 2


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
