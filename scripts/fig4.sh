#!/usr/bin/env bash
# Figure 4: does a model that read documents about a spec, and then got chats that follow it, harm
# less as an agent? The spec has no rule about agents. Usage: scripts/common.sh.
. "$(dirname "$0")/common.sh"

# 1. Spec to documents: the method's first stage. 13,201 documents, 41.4M tokens; the authors' are
#    released, and are used if they are in data/.
documents msm-qwen-philosophy-spec data/spec.md --config.documents.count=13201
# 2. Spec to chats: 9,963, with and without reasoning, the answers of the same questions. Released.
for model in qwen3 qwen2.5; do
	conversations value data/spec.md "aft-no-cot-$model-philosophy-spec" \
		"aft-cot-$model-philosophy-spec" --config.chats.count=9963
done
# 3. Controls that nobody released: documents about something else, as many tokens; documents of the
#    spec without its reasons (data/ablated-spec.md is yours). Any text for the replay is
#    data/ordinary.jsonl, and the instruction data data/sft-it-mix (released): yours.
neutral msm-qwen-philosophy-spec
documents ablated data/ablated-spec.md --config.documents.count=13201

# 4. Midtraining, fine-tuning and evaluation of 19 arms with 4 seeds, for both models. Each stage is
#    one epoch of LoRA (rank 64). Each arm gets 27 conditions x 300 answers, judged by a model: about
#    65 USD per arm and seed, an estimate (configs/evals/agents.py). Training and sampling: not
#    measured (paper: four H200 for one run).
# 5. The figure: runs/fig4/MODEL/report.html, with the paper's numbers as marks.
study qwen3-32b Qwen3-32B
study qwen2.5-32b Qwen2.5-32B-Instruct

# 6. Both models side by side.
msm study.compare --studies=runs/fig4/qwen3-32b,runs/fig4/qwen2.5-32b --output=runs/fig4/compare
