# What the scripts of all figures share. Read scripts/fig4.sh first.
#
#   scripts/fig4.sh              from a spec to the report: needs weights, an accelerator, API keys
#   scripts/fig4.sh miniature    the same stages and arms on a CPU, in minutes: placeholder texts
#   scripts/fig4.sh print        prints the commands and runs none of them
#
# Run them in the directory that has data/ and the weights. Each step is skipped or resumed when it
# is run again. What a script expects in data/ is listed in the docstring of its config.
#
# WRITER   flags of `generate` that name the writer of documents and chats; --preview of `generate`
#          says what it will cost. Ours has not been measured at this size. Notes of a replication:
#          700 to 1,500 USD for 41M tokens of documents, 150 to 300 USD for 10,000 chats.
# MACHINE  flags of the study for the machine; ours are for one TPU host with four chips as one mesh,
#          for an accelerator that holds the model alone use MACHINE= TOPOLOGY=
# TOPOLOGY of that machine: all programs are compiled for it first, which needs libtpu; "" does not
# PYTHON   the interpreter that has msm_jax
set -euo pipefail

MODE=${1:-real}
PYTHON=${PYTHON:-python}
WRITER=${WRITER:---config.writer.kind=anthropic --config.writer.model=claude-sonnet-4-6}
MACHINE=${MACHINE---config.workers=1 --config.train.accumulation=4}
TOPOLOGY=${TOPOLOGY-v5p:2x2x1}
FIGURE=$(basename "$0" .sh)
case $MODE in
real | miniature | print) ;;
*) echo "usage: $0 [miniature | print]" >&2; exit 2 ;;
esac

# msm COMMAND FLAG...: prints a command of msm_jax, and runs it unless the commands are only printed.
msm() {
	local command=$1
	shift
	printf 'python -m msm_jax.%s' "$command"
	printf ' %q' "$@"
	printf '\n'
	[ "$MODE" = print ] || "$PYTHON" -m "msm_jax.$command" "$@"
}

# made RUN FILE NAME: what `generate` wrote becomes data/NAME.jsonl.
made() {
	[ "$MODE" = print ] || { mkdir -p data && cp "runs/data/$1/$2" "data/$3.jsonl"; }
}

# missing NAME: whether data/ has no such file or files yet, so that they have to be written.
missing() {
	[ "$MODE" = print ] || ! compgen -G "data/$1.*" > /dev/null
}

# documents NAME SPEC FLAG...: documents about a spec.
documents() {
	local name=$1 spec=$2
	shift 2
	missing "$name" || return 0
	msm generate --config=configs/corpus/example.py --workdir="runs/data/$name" \
		--config.spec.path="$spec" $WRITER "$@"
	made "$name" documents.jsonl "$name"
}

# conversations STYLE SPEC NAME REASONING FLAG...: chats that follow a spec, written once with
# reasoning; the same chats without it become data/NAME. REASONING is "" where no arm needs it.
conversations() {
	local style=$1 spec=$2 name=$3 reasoning=$4
	shift 4
	missing "$name" || return 0
	msm generate --config="configs/corpus/chats.py:$style" --workdir="runs/data/$name" \
		--config.spec.path="$spec" ${reasoning:+--config.chats.reasoning=True} $WRITER "$@"
	if [ -n "$reasoning" ]; then
		made "$name" chats.jsonl "$reasoning"
		made "$name" chats_no_reasoning.jsonl "$name"
	else
		made "$name" chats.jsonl "$name"
	fi
}

# shuffled NAME SPEC FLAG...: documents about the spec with half of its likings swapped, no reasons.
shuffled() {
	local name=$1 spec=$2
	shift 2
	missing "$name" || return 0
	msm generate --config=configs/corpus/example.py --workdir="runs/data/$name-spec" \
		--config.make=spec --config.derive.kind=shuffled --config.spec.path="$spec"
	documents "$name" "runs/data/$name-spec/spec.md" "$@"
}

# neutral NAME: documents about something else, as many and as long as those of data/NAME.
neutral() {
	missing neutral || return 0
	local match
	match=$(compgen -G "data/$1.*" | head -n 1) || match=data/$1.jsonl
	msm generate --config=configs/corpus/example.py --workdir=runs/data/neutral \
		--config.make=neutral --config.neutral.match="$match" $WRITER
	made neutral documents.jsonl neutral
}

# study ARGUMENT BASE: the weights fit; every program compiles; the plan; the study.
# The figure is runs/FIGURE/report.html and figure.png, its numbers are tables/*.csv and *.tex there.
study() {
	local argument=$1 base=$2
	local config=configs/paper/$FIGURE.py${argument:+:$argument}
	local workdir=runs/$FIGURE${argument:+/$argument}
	msm convert --source="$base" --check
	[ -z "$TOPOLOGY" ] || msm study.compile --config="$config" --topology="$TOPOLOGY" $MACHINE
	msm study --config="$config" --config.base.path="$base" --workdir="$workdir" $MACHINE --dry_run
	msm study --config="$config" --config.base.path="$base" --workdir="$workdir" $MACHINE
}

# The miniature needs no data, weights or keys: all that follows in the script is for the figure.
if [ "$MODE" = miniature ]; then
	msm study --config="configs/paper/$FIGURE.py:miniature" --workdir="runs/${FIGURE}_miniature"
	exit
fi
