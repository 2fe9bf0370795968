"""What Inspect finds through the entry point `inspect_ai`: two model providers.

    inspect eval inspect_evals/agentic_misalignment --model msm_jax/RUN \\
        -T grader_model=msm_jax_judge/OTHER_RUN --epochs 300 --max-connections 300 \\
        --no-epochs-reducer

`msm_jax` answers. `msm_jax_judge` reasons, and then ends its reply with the more probable of
<answer>yes</answer> and <answer>no</answer>, so that every reply can be parsed.
"""

import sys


def register() -> None:
    """Register both providers with Inspect."""
    from inspect_ai.model import modelapi

    from msm_jax.evals.inspection.provider import provider_class

    modelapi(name="msm_jax")(lambda: provider_class(judging=False))
    modelapi(name="msm_jax_judge")(lambda: provider_class(judging=True))


# Inspect imports this module through the entry point, and is then loaded itself.
if "inspect_ai" in sys.modules:
    register()
