"""Devices that are not there: TPU topologies, NVIDIA GPUs, and fake CPU devices.

For a GPU XLA's CUDA compiler gets the description of a card. Nothing is tried out on a card, so
kernels of products may differ from those that a card would choose, and room that cuDNN takes for
itself is not counted: programs on an H200 took 10 to 14 % more (Qwen3-8B LoRA 78.3 GiB, here 68.9;
32B 89.5, here 81.6).
"""

import os
from typing import Any

import jax

from msm_jax import accelerators
from msm_jax.errors import UserError

# name -> (L2 cache in MiB, clock in GHz), as such cards report them
GPUS = {"h100": (50, 1.98), "h200": (60, 1.98)}
# Compute capability 9.0, by the CUDA C++ programming guide (table of technical specifications).
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "NVIDIA {name}"
"""


def devices_for(topology: str, count: int) -> list[jax.Device]:
    """The devices of a TPU topology, a GPU, or so many fake CPU devices; before JAX is used.

    Raises:
      UserError: neither is given, or the compiler is missing or does not know the topology.
    """
    if not topology and not count:
        raise UserError(
            "give --topology=v5p:4x4x4 (TPUs), --topology=h100 (a GPU) or --mesh=8 (fake CPUs)"
        )
    jax.config.update("jax_platforms", "cpu")  # whatever this machine has is left alone
    if topology:  # a program for devices that are not there cannot be read back from a cache
        jax.config.update("jax_enable_compilation_cache", False)
        return gpu_devices(topology) if topology in GPUS else tpu_devices(topology)
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    return jax.devices()


def tpu_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU topology, "v5p:4x4x4", or of gcloud's name for it, "v5p-128"."""
    if "-" in topology:
        topology = accelerators.find_slice(topology).topology
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    needs = (
        "libtpu (pip install 'msm_jax[tpu]') and names like v5e:16x16, v5p:4x4x4, v6e:8x8, or "
        "gcloud's, like v5litepod-256"
    )
    return _described(topology, needs, platform="tpu", topology_name=topology)


def gpu_devices(name: str) -> list[jax.Device]:
    """One device, a key of GPUS."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks for a driver
    chip, (cache, clock) = accelerators.find(f"NVIDIA {name.upper()}"), GPUS[name]
    assert chip is not None
    sizes = {"memory": chip.memory, "bandwidth": chip.bandwidth, "cache": cache * 2**20}
    target = _HOPPER.format(name=name.upper(), clock=clock, **sizes)
    needs = "JAX's CUDA compiler (pip install 'msm_jax[gpu]')"
    about = {"topology_name": "", "target_config": target, "topology": "1x1x1"}
    return _described(name, needs, platform="cuda", **about)


def _described(name: str, needs: str, **about: Any) -> list[jax.Device]:
    """The devices that JAX makes of a description; UserError with what that needs."""
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(**about).devices)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(f"topology={name}: {reason}; it takes {needs}") from error
