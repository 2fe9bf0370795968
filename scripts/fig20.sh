#!/usr/bin/env bash
# Figure 20: how many chats of an opposed character among the alignment chats undo them, with and
# without midtraining? 9,900 chats in every arm, 0 to 100 % of them opposed.
# Usage: scripts/common.sh. The other data: fig4.sh.
. "$(dirname "$0")/common.sh"

documents msm-qwen-philosophy-spec data/spec.md --config.documents.count=13201
documents ablated data/ablated-spec.md --config.documents.count=13201
neutral msm-qwen-philosophy-spec
conversations value data/spec.md aft-no-cot-qwen2.5-philosophy-spec \
	aft-cot-qwen2.5-philosophy-spec --config.chats.count=9963
# 9,900 chats of the opposed character are not released.
conversations anti data/spec.md aft-anti "" --config.chats.count=9900

# 26 arms, one seed, as the paper. Judge: about 65 USD per arm, an estimate. Training and sampling:
# not measured (paper: four H200 for one run).
study "" Qwen2.5-32B-Instruct
