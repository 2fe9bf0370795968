#!/usr/bin/env bash
# Figure 5: how many chats does fine-tuning need, with and without midtraining? A sweep over 1,250 to
# 80,000 chats, smaller sets within larger ones. Usage: scripts/common.sh. Data as for fig4.sh.
. "$(dirname "$0")/common.sh"

documents msm-qwen-philosophy-spec data/spec.md --config.documents.count=13201
documents ablated data/ablated-spec.md --config.documents.count=13201
neutral msm-qwen-philosophy-spec
# 80,000 chats are not released. Eight times the estimate for 10,000: 1,200 to 2,400 USD.
conversations value data/spec.md aft-80k aft-80k-reasoning --config.chats.count=80000

# 43 arms, one seed, as the paper. Judge: about 65 USD per arm, an estimate. Training and sampling:
# not measured. The curve is the section "By take" of the report.
study qwen3-32b Qwen3-32B
study qwen2.5-32b Qwen2.5-32B-Instruct
