"""NVIDIA GPUs that are not there: XLA's CUDA compiler, given the description of a card.

Nothing is tried out on a card, so kernels of products may differ from those that a card would
choose, and room that cuDNN takes for itself is not counted: programs on an H200 took 10 to 14 %
more (Qwen3-8B LoRA 78.3 GiB, here 68.9; 32B 89.5, here 81.6).
"""

import os

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


def gpu_devices(name: str) -> list[jax.Device]:
    """One device, a key of GPUS.

    Raises:
      UserError: JAX's CUDA plugin is missing or cannot describe the device.
    """
    from jax.experimental import topologies

    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks for a driver
    chip, (cache, clock) = accelerators.find(f"NVIDIA {name.upper()}"), GPUS[name]
    assert chip is not None
    target = _HOPPER.format(
        name=name.upper(),
        memory=chip.memory,
        bandwidth=chip.bandwidth,
        cache=cache * 2**20,
        clock=clock,
    )
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=target,
            topology="1x1x1",
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(
            f"topology={name}: {reason}; it takes JAX's CUDA compiler (pip install 'msm_jax[gpu]')"
        ) from error
    return list(found.devices)
