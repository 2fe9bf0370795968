#!/usr/bin/env bash
# Figures 8 and 17: does a general spec of one paragraph do as much as a specific one? Documents about
# each are followed by chats of each. Usage: scripts/common.sh. The specific spec's data: fig4.sh.
. "$(dirname "$0")/common.sh"

documents msm-qwen-philosophy-spec data/specific.md --config.documents.count=13201
documents documents-general data/general.md --config.documents.count=13201
documents ablated-specific data/ablated-spec.md --config.documents.count=13201
neutral msm-qwen-philosophy-spec
# 8,000 chats of each spec are taken.
conversations value data/general.md aft-general aft-general-reasoning
for model in qwen2.5 qwen3; do
	conversations value data/specific.md "aft-no-cot-$model-philosophy-spec" \
		"aft-cot-$model-philosophy-spec" --config.chats.count=9963
done

# 37 arms. Judge: about 65 USD per arm and seed, an estimate. Training and sampling: not measured
# (paper: four H200 for one run).
study qwen2.5-32b Qwen2.5-32B-Instruct
study qwen3-32b Qwen3-32B
