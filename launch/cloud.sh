# shellcheck shell=bash
# Queued resources: their state, their nodes, their end. Sourced after lib.sh.

# of_slice image|hosts: of ACCELERATOR, by the table that python -m msm_jax.compile reads too.
of_slice() {
  awk -F '\t' -v name="$ACCELERATOR" -v want="$1" '
    BEGIN { size = name; sub(/.*-/, "", size); type = name; sub(/-[^-]*$/, "", type) }
    /^#/ || $3 != type || size !~ /^[0-9]+$/ { next }
    {
      chips = $4 == "cores" ? size / 2 : size
      hosts = $4 == "chips" && chips <= 8 || chips <= $6 ? 1 : chips / $6
      print want == "image" ? $5 : hosts
      found = 1
    }
    END { exit !found }' "$HERE/../msm_jax/accelerators.tsv" && return
  local why='msm_jax/accelerators.tsv has no TYPE-N like it'
  [[ ! ${ACCELERATOR,,} =~ ^(tpu)?-?v?7x|ironwood ]] ||
    why="the Cloud TPU API, which launch/ uses, has no TPU7x: use GKE (docs/pods.md) or Compute Engine"
  die "$MISTAKE" "ACCELERATOR=$ACCELERATOR: $why"
}

# What gcloud calls the state, or ABSENT; after a tab the reason of a failure.
state() {
  local out code=0
  out=$(cloud queued-resources describe "$NAME" \
    --format='value(state.state,state.failedData.error.message)' 2>"$TMP/say") || code=$?
  case $code in
    0) ;;
    "$GONE") out=ABSENT ;;
    *) cat "$TMP/say" >&2; return "$code" ;;
  esac
  printf '%s\n' "${out:-UNKNOWN}"
}

# Whether the workers are there, as far as is known: a question that fails says nothing of them.
active() {
  local now
  [[ ! $DRY && $BACKEND == tpu ]] || return 0
  now=$(state) || return 0
  [[ $now == ACTIVE* ]]
}

# The TPU VMs of the queued resource; a name for all hosts of ssh.
nodes() {
  local i
  if ((SLICES == 1)) || [[ $BACKEND == ssh ]]; then
    echo "$NAME"
  else
    for ((i = 0; i < SLICES; i++)); do echo "$NAME-$i"; done
  fi
}

# Deletes the queued resource and all of its nodes, and looks whether they are gone.
remove() {
  local n now node code patience=$((TRIES * 20))
  for ((n = 0; n < patience; n++)); do
    now=$(state) || return
    [[ $DRY || $now != ABSENT* ]] || break
    if ((n % 10 == 0)) && [[ $now != DELETING* ]]; then
      code=0
      (cloud queued-resources delete "$NAME" --force --quiet --async) || code=$?
      ((code != MISTAKE)) || return "$MISTAKE"
    fi
    [[ ! $DRY ]] || break
    say "$NAME: ${now%%$'\t'*}, waits to be gone"
    pause
  done
  ((n < patience)) || die 1 "$NAME is still $now and may cost money: run launch/delete again"
  for node in $(nodes); do
    code=0
    (cloud tpu-vm describe "$node" --format='value(state)' >/dev/null 2>"$TMP/say") || code=$?
    ((code != GONE)) || continue
    ((!code)) || { cat "$TMP/say" >&2; return "$code"; }
    [[ $DRY ]] || say "$node outlived its queued resource: deleting it"
    (cloud tpu-vm delete "$node" --quiet) || { code=$?; ((code == GONE)) || return "$code"; }
  done
}
