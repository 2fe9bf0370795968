"""safetensors files: read as their library reads them, and every damage is a message."""

import json
import random
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from msm_jax.errors import UserError
from msm_jax.weights.tensor_files import CHUNK, INDEX, NotFinite, find_tensors


def tensors():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(5, 3)).astype(np.float32),
        "b": rng.normal(size=(4, 2, 3)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 7), np.float16),
        "scalar": np.array(3, np.int64),
    }


def blob(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_writes(tmp_path):
    wanted = tensors()
    safetensors.numpy.save_file(wanted, tmp_path / "model.safetensors", {"format": "pt"})
    found = find_tensors(tmp_path)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        stored = found[name]
        assert (stored.shape, stored.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(stored.read(), tensor)
    np.testing.assert_array_equal(found["b"].read(1, 3), wanted["b"][1:3])
    assert found["b"].read(2, 2).shape == (0, 2, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_nan_and_infinity_are_noticed_wherever_they_are_and_nothing_else_is(tmp_path, dtype):
    size, bits = CHUNK, np.dtype(f"u{np.dtype(dtype).itemsize}")
    infinity = int(np.array(np.inf, dtype).view(bits))
    sign = 1 << (8 * bits.itemsize - 1)
    ends = [infinity - 1, infinity, infinity + 1, sign - 1]  # the largest number, infinity, NaNs
    plain = np.random.default_rng(0).normal(size=size).astype(dtype)
    numbers = [0, 1, *ends, sign, *(sign | end for end in ends)]
    for number, place in zip(numbers, np.linspace(0, size - 1, len(numbers)), strict=True):
        tensor = plain.copy()
        tensor.view(bits)[int(place)] = number
        safetensors.numpy.save_file({"a": tensor}, tmp_path / "model.safetensors")
        array = np.empty(size, dtype)
        read = lambda: find_tensors(tmp_path)["a"].read_into(array)  # noqa: B023
        if number & infinity < infinity:
            read()
            np.testing.assert_array_equal(array.view(bits), tensor.view(bits))
        else:
            with pytest.raises(NotFinite):
                read()


def sharded(path, weight_map=None):
    wanted = tensors()
    safetensors.numpy.save_file({"a": wanted["a"]}, path / "one.safetensors")
    rest = {name: tensor for name, tensor in wanted.items() if name != "a"}
    safetensors.numpy.save_file(rest, path / "two.safetensors")
    whole = {"a": "one.safetensors", **dict.fromkeys(rest, "two.safetensors")}
    (path / INDEX).write_text(json.dumps({"weight_map": {**whole, **(weight_map or {})}}))
    return wanted


def test_reads_shards_by_their_index(tmp_path):
    wanted = sharded(tmp_path)
    found = find_tensors(tmp_path)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name].read(), tensor)


def test_every_disagreement_with_the_index_is_told(tmp_path):
    sharded(tmp_path, {"a": "two.safetensors", "ghost": "one.safetensors"})
    with pytest.raises(UserError) as error:
        find_tensors(tmp_path)
    assert "a: in one.safetensors, the index says two" in str(error.value)
    assert "ghost: the index says one.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b", "..", "", 3, "a\0b", ["a"], {}]
)
def test_an_index_cannot_name_what_lies_outside(tmp_path, name):
    inside = tmp_path / "model"
    inside.mkdir()
    safetensors.numpy.save_file(tensors(), tmp_path / "x.safetensors")
    (inside / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="not a file of this directory"):
        find_tensors(inside)


def test_missing_and_doubled_shards_are_told_together(tmp_path):
    sharded(tmp_path, {"z": "three.safetensors"})
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError) as error:
        find_tensors(tmp_path)
    assert "three.safetensors: is missing" in str(error.value)
    assert "a: in one.safetensors and again in two.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (struct.pack("<Q", 2**63), "says its header has"),
        (blob(b"{"), "model.safetensors"),
        (blob(b"[]"), "not a JSON object"),
        (blob(b"\xff\xfe"), "not UTF-8"),
        (blob(b"[" * 200_000), "nested deeper than 100"),
        (blob(b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}"), "nested deeper than 100"),
        (blob(b'{"a": 1' + b" " * (17 << 20) + b"}"), "its header has .* more than .*HEADER_BYTES"),
        (blob(b'{"a": 1, "a": 2}'), "twice"),
        (blob(b"{%s}" % b", ".join(b'"%d": 1' % (i // 2) for i in range(120_000))), "twice"),
        (blob({"a": entry()}, b"\0" * 7), "truncated"),
        (blob({"a": entry()}, b"\0" * 9), "truncated"),
        (blob({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "starts at byte 4"),
        (blob({"a": entry(), "b": entry(offsets=(9, 17))}, b"\0" * 17), "starts at byte 9"),
        (blob({"a": entry(shape=(3,))}, b"\0" * 8), "does not fill"),
        (blob({"a": entry(shape=(-2,))}, b"\0" * 8), "is no tensor"),
        (blob({"a": entry(shape=(2.0,))}, b"\0" * 8), "is no tensor"),
        (blob({"a": entry(shape=(True, 2))}, b"\0" * 8), "is no tensor"),
        (blob({"a": entry(offsets=(8, 0))}, b"\0" * 8), "does not fill"),
        (blob({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8), "does not fill"),
        (blob({"a": entry(shape=(10**30,))}, b"\0" * 8), "is no tensor"),
        (blob({"a": entry(dtype="F8_E4M3")}, b"\0" * 8), "F8_E4M3"),
        (blob({"a": {"dtype": "F32"}}, b""), "not an entry"),
    ],
)
def test_a_damaged_file_is_a_message(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_tensors(tmp_path)


def damaged(whole: bytes, upto: int, rng: random.Random) -> bytes:
    """The bytes with a few flipped, cut, doubled or put in among the first `upto`."""
    found = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(upto, len(found)))
        kind = rng.randrange(4)
        if kind == 0:
            found[at] = rng.randrange(256)
        elif kind == 1:
            del found[at : at + rng.randint(1, 20)]
        elif kind == 2:
            found[at:at] = found[at : at + rng.randint(1, 20)]
        else:
            found[at:at] = rng.choice([b"-", b"9" * 25, b'"', b"\0", b"1e9", b"../"])
    return bytes(found)


def test_random_damage_of_a_header_never_does_worse_than_a_message(tmp_path):
    """Read in bounds, or a UserError."""
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors(), file)
    whole, rng, refused = file.read_bytes(), random.Random(0), 0
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for _ in range(2000):
        file.write_bytes(damaged(whole, header, rng))
        try:
            for stored in find_tensors(tmp_path).values():
                assert stored.read().nbytes == stored.bytes <= file.stat().st_size
        except UserError:
            refused += 1
    assert refused > 1000


def test_random_damage_of_an_index_never_does_worse_than_a_message(tmp_path):
    """What is read is in the directory and is what its own header says, or a UserError."""
    inside = tmp_path / "model"
    inside.mkdir()
    wanted = sharded(inside)
    safetensors.numpy.save_file({"a": wanted["a"]}, tmp_path / "one.safetensors")
    whole, rng, refused = (inside / INDEX).read_bytes(), random.Random(0), 0
    for _ in range(2000):
        (inside / INDEX).write_bytes(damaged(whole, len(whole) - 1, rng))
        try:
            for name, stored in find_tensors(inside).items():
                assert stored.file.parent == inside
                np.testing.assert_array_equal(stored.read(), wanted[name])
        except UserError:
            refused += 1
    assert refused > 1000
