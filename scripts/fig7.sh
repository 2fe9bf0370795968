#!/usr/bin/env bash
# Figures 7 and 14: is it better to give reasons for rules, or more rules? Three specs, and every
# pair of documents about one and chats that follow another. Usage: scripts/common.sh.
. "$(dirname "$0")/common.sh"

# The rules are those of the package; the two longer specs have equal lengths within 5 %.
for spec in rules value_augmented rules_augmented; do
	# The paper's 27M tokens are about 8,600 documents of the length of its others: an estimate.
	documents "documents-$spec" "msm_jax/spec/examples/$spec.md" --config.documents.count=9000
	style=$([ "$spec" = rules ] && echo rule || echo value)
	conversations "$style" "msm_jax/spec/examples/$spec.md" "aft-$spec" "aft-$spec-reasoning"
done
neutral documents-rules

# 56 arms. Judge: about 65 USD per arm and seed, an estimate. Training and sampling: not measured
# (paper: two H200 for one run of 14B). Replications recommend 14B: 32B has rates near 0.
study qwen2.5-14b Qwen2.5-14B-Instruct
study qwen3-14b Qwen3-14B
