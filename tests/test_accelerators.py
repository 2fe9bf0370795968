"""The table of accelerators against arithmetic, libtpu's own word and awk, which reads it too."""

import json
import math
import os
import pathlib
import subprocess
import sys
import types

import pytest
from jax._src import hardware_utils

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.train.flops import peak_flops

LIBTPU = pathlib.Path(sys.prefix, "tpu")  # where the Makefile puts it, apart from all else
SLICES = [
    accelerators.find_slice(f"{one.type}-{size}")
    for one in accelerators.table()
    for size in one.slices
]


def test_a_topology_has_as_many_chips_as_its_name_says_cores_or_chips():
    assert len(SLICES) == 4 * 9 - 2
    for one in SLICES:
        generation, _, shape = one.topology.partition(":")
        assert math.prod(map(int, shape.split("x"))) == one.chips
        cores = one.chips * (2 if generation in ("v4", "v5p") else 1)
        assert one.type.rpartition("-")[2] == str(cores)
        assert one.chips <= 8 or one.hosts == one.chips // 4
        assert accelerators.find_slice(one.topology) == one


@pytest.mark.parametrize(
    "name, chips, hosts",
    [
        ("v5litepod-8", 8, 1),  # one host with all of its chips
        ("v5litepod-16", 16, 4),
        ("v6e-1", 1, 1),
        ("v6e-256", 256, 64),
        ("v4-8", 4, 1),
        ("v5p-16", 8, 2),
        ("v5p:4x4x4", 64, 16),
    ],
)
def test_hosts_of_slices(name, chips, hosts):
    found = accelerators.find_slice(name)
    assert (found.chips, found.hosts) == (chips, hosts)


def test_an_unknown_slice_is_an_error_that_lists_those_of_its_generation():
    with pytest.raises(UserError, match="no slice v5p-100: .*v5p-128") as error:
        accelerators.find_slice("v5p-100")
    assert "v6e" not in str(error.value)


@pytest.mark.parametrize(
    "kind, generation",
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("cpu", None),
    ],
)
def test_a_device_kind_finds_its_generation(kind, generation):
    found = accelerators.find(kind)
    assert (found and found.generation) == generation


def test_a_chip_of_tpu7x_is_two_devices_with_half_of_its_peak_each():
    """docs.cloud.google.com/tpu/docs/tpu7x: 192 GiB, 2307 TFLOP/s and 7380 GB/s per chip."""
    one = accelerators.find("TPU7x")
    assert 0.98 * 96 * 2**30 < one.memory < 96 * 2**30
    assert (2 * one.flops, 2 * one.bandwidth) == (2307e12, 7380e9)
    machine = [types.SimpleNamespace(device_kind="TPU7x")] * 8
    assert peak_flops(machine) == 4 * 2307e12
    with pytest.raises(UserError, match="tpu7x:2x2x1"):
        accelerators.find_slice("tpu7x-8")


def test_every_tpu_that_jax_finds_on_the_bus_is_counted():
    assert set(hardware_utils._TPU_PCI_DEVICE_IDS) <= set(accelerators.TPUS)


def test_awk_reads_the_same(root):
    program = '!/^#/ && NF { print $1 "|" $3 "|" $5 "|" $6 }'
    path = root / "msm_jax" / "accelerators.tsv"
    lines = subprocess.check_output(["awk", "-F", "\t", program, path], text=True).splitlines()[1:]
    dash = lambda value: value or "-"
    assert lines == [
        f"{one.generation}|{dash(one.type)}|{dash(one.image)}|{dash(one.chips_per_host)}"
        for one in accelerators.table()
    ]


KNOWN = """
import json, sys
from msm_jax import accelerators
from msm_jax.train import targets
found = {}
for name in json.loads(sys.argv[1]):
    devices = targets.tpu_devices(name)
    chips = {tuple(device.coords) for device in devices}
    generation = accelerators.find(devices[0].device_kind).generation
    found[name] = [len(chips), generation, len(devices)]
print(json.dumps(found))
"""


@pytest.mark.skipif(not LIBTPU.is_dir(), reason="needs libtpu: make .venv/.installed-test")
def test_libtpu_knows_the_topologies_and_calls_them_by_our_kinds(run_python, root):
    names = [one.type for one in SLICES if one.chips <= 64 and one.topology[-3:] != "1x1"]
    path = os.pathsep.join([str(root), str(LIBTPU)])
    done = run_python("-c", KNOWN, json.dumps([*names, "tpu7x:2x2x1"]), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        one = accelerators.find_slice(name)
        assert found[name][:2] == [one.chips, one.accelerator.generation]
    assert found["tpu7x:2x2x1"] == [4, "tpu7x", 8]
