#!/usr/bin/env bash
# Figure 3: six more values, each with likings of its own. Nothing of them is released, so that specs
# and pairs are yours (data/VALUE.md, data/pairs-VALUE.jsonl) and the rest is written here.
# Usage: scripts/common.sh. VALUES="environment novelty" limits it to some of them.
. "$(dirname "$0")/common.sh"

for value in ${VALUES:-environment novelty tradition simplicity difficulty individualism}; do
	# 4,600 documents are 7M tokens in the paper's data; every arm takes 6.8M.
	documents "documents-$value" "data/$value.md" --config.documents.count=4600
	shuffled "ablated-$value" "data/$value.md" --config.documents.count=4600
	# 5,000 chats that show likings without reasons.
	conversations opaque "data/$value.md" "aft-$value" ""
	neutral "documents-$value"
	# 12 arms, 4 seeds. Hours and cost: not measured (paper: one H200).
	study "$value" Llama-3.1-8B
done
