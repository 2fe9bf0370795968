#!/usr/bin/env bash
# Figure 2: two models read documents that give different reasons for the same likings of cheeses.
# Then both get the same chats, which show the likings without reasons. Which value do they have?
# Usage: scripts/common.sh.
. "$(dirname "$0")/common.sh"

# Released: documents about both specs (7.1M and 9.5M tokens; every arm takes 6.8M), 5,129 chats
# about cheeses, 497 and 400 pairs of choices. Yours: the specs and the instruction mix.
for value in affordability america; do
	# The control without reasons: 4,600 documents about the spec with shuffled likings.
	shuffled "ablated-$value" "data/$value.md" --config.documents.count=4600
done
# The control of midtraining as such: as many tokens about something else. Written with the lengths
# of the released documents. data/ordinary.jsonl, any text, is yours.
neutral msm-llama-pro-affordability

# LoRA of rank 64 on Llama-3.1-8B, a base model, 20 arms, 4 seeds. Two answers per pair, scored by
# log-probability and read from text. Hours and cost: not measured (paper: one H200).
study "" Llama-3.1-8B
