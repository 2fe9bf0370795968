"""msm_jax: Model Spec Midtraining in JAX.

`msm_jax.load` is the way in for notebooks and scripts; it is imported on first use, so that
`import msm_jax` and every command's `--help` are fast.
"""

from typing import Any

__version__ = "0.1.0"
# Badges, install cells and package metadata all say this address.
REPOSITORY = "https://github.com/msm-jax/msm_jax"
__all__ = ["REPOSITORY", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from msm_jax.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load"])
