# shellcheck shell=bash
# All workers at once: commands, files, the state of a run. Sourced after lib.sh and cloud.sh.
read -ra HOST <<<"${HOSTS:-}"
FOLDER=msm_jax-$NAME # in the home directory of every worker
AT="bash $FOLDER/source/launch/worker" # a verb on a worker
if [[ $BACKEND == ssh ]]; then PER_NODE=${#HOST[@]}; else PER_NODE=$(of_slice hosts) || exit; fi
if [[ $BACKEND == tpu ]] && tunnels; then
  batch=64 # at most, even with --batch-size=all; the next batch waits for this one to end
  [[ ! ${SSH_ARGUMENTS[*]} =~ --batch-size=([0-9]+) ]] || batch=${BASH_REMATCH[1]}
  ((PER_NODE <= batch && PER_NODE <= 64)) || die "$MISTAKE" "SSH_ARGUMENTS: gcloud reaches $batch of" \
    "$PER_NODE workers at a time, and all must start together: use --internal-ip on a VM in their network"
fi

# reach NODE WORKERS COMMAND: by one ssh; WORKERS is "all" or "1,3".
reach() {
  if [[ $BACKEND == tpu ]]; then
    via "$1"
    call gcloud compute tpus "$GROUP" ssh "$PLACE" --zone="$ZONE" --project="$PROJECT" \
      --worker="$2" "${NUMBER[@]}" --command="$3" "${SSH_ARGUMENTS[@]}" </dev/null
    return
  fi
  local i
  for ((i = 0; i < PER_NODE; i++)); do
    [[ $2 == all || ,$2, == *,$i,* ]] || continue
    call ssh -o BatchMode=yes "${SSH_ARGUMENTS[@]}" "${HOST[i]}" "export WORKER=$i; $3" </dev/null &
  done
  wait
}

# on_workers COMMAND: on all, at the same time. Every worker ends its answer by a line "@NUMBER
# CODE"; one that does not is asked again, TRIES times, and then named. The lines of all are in
# $TMP/lines, each after its node's name. Returns the highest code; PREEMPTED if the TPU is gone.
on_workers() {
  local metadata='http://metadata.google.internal/computeMetadata/v1/instance/attributes'
  local header="-H Metadata-Flavor:Google" n node missing code=0
  local asked="export WORKER=\${WORKER:-\$(curl -sf $header $metadata/agent-worker-number)}; "
  asked+="{ $1; }; echo \"@\$WORKER \$?\""
  rm -f "$TMP"/answer.*
  for ((n = 1; ; n++)); do
    for node in $(nodes); do
      missing=$(unheard "$node")
      [[ ! $missing ]] || reach "$node" "$missing" "$asked" >"$TMP/answer.$node.$n" 2>&1 &
    done
    wait
    [[ ! $DRY ]] || return 0
    missing=''
    for node in $(nodes); do missing+=$(unheard "$node" | sed -n "s/..*/ $node:&/p"); done
    [[ $missing ]] || break
    active || return "$PREEMPTED"
    mistakes "$TMP"/answer.*."$n"
    say "no answer from worker$missing: $(grep -hv '^[@#]' "$TMP"/answer.*."$n" | tail -n 2 | tr '\n' ' ')"
    ((n < TRIES)) || die 1 "given up after $n tries: worker$missing cannot be reached"
    pause "$n"
  done
  for node in $(nodes); do sed "s/^/$node /" "$TMP/answer.$node".*; done >"$TMP/lines"
  code=$(awk '$2 ~ /^@[0-9]+$/ && $3 + 0 > top { top = $3 } END { print top + 0 }' "$TMP/lines")
  return "$code"
}

# The workers of a node that have not answered: "" for none, "all", or "1,3".
unheard() {
  { cat "$TMP/answer.$1".* || true; } 2>/dev/null | awk -v hosts="$PER_NODE" '
    /^@[0-9]+ [0-9]+$/ { heard[substr($1, 2)] = ++some }
    END {
      for (i = 0; i < hosts; i++) if (!(i in heard)) list = list (list == "" ? "" : ",") i
      print (some ? list : "all")
    }'
}

# ask: $TMP/states, a line "NODE NUMBER STATE ID CODE LAST-LINE" for every worker.
ask() {
  local new="echo \"#\$WORKER new none 0\""
  on_workers "if [ -e $FOLDER/environment.sh ]; then $AT state; else $new; fi" || return
  [[ $DRY ]] || sed -nE 's/^([^ ]+) #([0-9]+ )/\1 \2/p' "$TMP/lines" >"$TMP/states"
}

running() { awk '$3 == "running" { found = 1 } END { exit !found }' "$TMP/states"; }
