#!/usr/bin/env bash
# Figures 12 and 13: how often does a model act against its overseers without alignment training?
# Nothing is trained, so this is the cheapest. Usage: scripts/common.sh.
# Needs `inspect_evals` for the texts, and the released adapters of the instruction mix in chloeli/.
. "$(dirname "$0")/common.sh"

# 18 conditions x 300 answers, two thirds of the full design: about 43 USD for the judge, an estimate.
# Sampling: not measured (one accelerator with 140 GB).
study qwen3-32b Qwen3-32B
study qwen2.5-32b Qwen2.5-32B-Instruct
