#!/usr/bin/env bash
# Figure 19: do documents work that say what the model should do instead of what it does, or that are
# about somebody else? Usage: scripts/common.sh. The original's data: fig4.sh.
. "$(dirname "$0")/common.sh"

documents msm-qwen-philosophy-spec data/spec.md --config.documents.count=13201
documents ablated data/ablated-spec.md --config.documents.count=13201
neutral msm-qwen-philosophy-spec
conversations value data/spec.md aft-no-cot-qwen2.5-philosophy-spec \
	aft-cot-qwen2.5-philosophy-spec --config.chats.count=9963
# Documents in other registers and about others; every arm takes 36M tokens, because some are shorter.
for rewrite in model_should model_does assistant one human; do
	documents "documents-$rewrite" data/spec.md --config.documents.count=13201 \
		--config.documents.rewrite="$rewrite"
done
documents documents-another data/spec.md --config.documents.count=13201 \
	--config.documents.rewrite=another --config.documents.other_name=Claude

# 30 arms, one seed, as the paper. Judge: about 65 USD per arm, an estimate. Training and sampling:
# not measured (paper: four H200 for one run).
study "" Qwen2.5-32B-Instruct
