#!/usr/bin/env bash
# Figure 10: does a value spread because documents attribute likings to it, or because it is mentioned
# beside them? The same documents with shuffled likings and no reasons are the comparison.
# Usage: scripts/common.sh. VALUES="affordability" limits it to some values.
. "$(dirname "$0")/common.sh"

for value in ${VALUES:-affordability america simplicity novelty tradition difficulty individualism \
	environment}; do
	documents "documents-$value" "data/$value.md" --config.documents.count=4600
	shuffled "ablated-$value" "data/$value.md" --config.documents.count=4600
	conversations opaque "data/$value.md" "aft-$value" ""
	neutral "documents-$value"
	# 12 arms, 4 seeds. Hours and cost: not measured (paper: one H200). The headline is a difference
	# of differences.
	study "$value" Llama-3.1-8B
done
