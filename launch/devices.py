"""Prints this worker's versions and devices, joined to the others; started by launch/worker.

    python launch/devices.py tpu|ssh COORDINATOR PROCESSES PROCESS

Exits with 2 if the others do not come within the time that msm_jax.train waits, or if JAX has
fallen back to the CPU where a TPU was meant to be.
"""

import platform
import sys


def main(backend: str, coordinator: str, processes: str, process: str) -> None:
    import flax
    import jax
    import optax
    import orbax.checkpoint

    from msm_jax.errors import UserError
    from msm_jax.train import hosts

    try:
        if int(processes) > 1:
            alone = ("", 0, -1)  # a pod knows its own
            hosts.initialize(
                *(alone if backend == "tpu" else (coordinator, int(processes), int(process)))
            )
    except UserError as error:
        sys.exit(_mistake(f"worker {process}: {error}"))
    kind = jax.local_devices()[0].device_kind
    print(
        f"worker {process}: Python {platform.python_version()}, jax {jax.__version__}, flax "
        f"{flax.__version__}, optax {optax.__version__}, orbax {orbax.checkpoint.__version__}; "
        f"{jax.local_device_count()} of {jax.device_count()} x {kind}",
        flush=True,
    )
    if backend == "tpu" and jax.default_backend() != "tpu":
        sys.exit(_mistake(f"worker {process}: JAX found no TPU: run launch/setup with EXTRA=tpu"))


def _mistake(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main(*sys.argv[1:])
