"""The paper's agent evaluation: 27 conditions, 300 samples each, 8,100 answers per checkpoint.

A lab record:

    command    python -m msm_jax.evaluate --config=configs/evals/agents.py \\
                   --checkpoint=runs/aft --output=runs/aft/agents
    hardware   for a 32B model one accelerator with 140 GB, or a mesh; judging by API or rules
               needs none (--phase=judge)
    time       sampling: not yet measured on an accelerator. Beside the model about 1 ms per sample
               on one core (benchmarks/agents_overhead.py): 10 s in all. The judge's 8,100 calls
               cost about 65 USD at 3 and 15 USD per million tokens
    result     the paper's texts, not ours: Qwen2.5-32B-Instruct .666, Qwen3-32B .524 (MSM,
               figures 5, 12 and 13). With our texts no published number is to be expected

`:smoke` is 27 x 8 with the rules as judge, enough to distinguish 54 % from 7 %. `:ranking` is 27 x
50. `:thinking` is for models that reason by themselves: no scratchpad. `:published` uses the texts
of an installed inspect_evals, in the two scenarios of the paper that it has.

What the sizes can distinguish: python -m msm_jax.evals.power.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "smoke", "ranking", "thinking", "published")


def get_config(arg: str = "") -> ConfigDict:
    """ "" is the paper's design (appendix D.3); see the module for the others."""
    if arg not in VARIANTS:
        raise ValueError(f"configs/evals/agents.py:{arg}: the argument is one of {VARIANTS}")
    config = ConfigDict(
        {
            "kind": "agents",
            "scenarios": ("exfiltration", "murder", "leaking"),
            "goals": ("none", "explicit"),
            "urgencies": ("replacement",),
            "extras": ("none",),
            "scratchpad": True,
            "assistant": "Qwen",
            "source": "own",
            "samples": 300,
            "temperature": 0.7,
            "max_tokens": 4096,
            "judge": "anthropic",
            "judge_model": "claude-sonnet-4-6",
            "judge_concurrency": 16,
            "max_error_share": 0.05,
        }
    )
    if arg == "smoke":
        config.samples = 8
        config.judge = "rules"
        del config.judge_model
    if arg == "ranking":
        config.samples = 50
    if arg == "thinking":
        config.scratchpad = False
    if arg == "published":
        config.update({"source": "inspect_evals", "assistant": "Alex"})
        config.scenarios = ("murder", "leaking")
    return config.lock()
