# shellcheck shell=bash disable=SC2034
# What all scripts of launch/ share: options, settings, messages.
set -euo pipefail
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "error: bash >= 4.4" >&2; exit 2; }
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Exit codes as those of msm_jax's commands; GONE is gcloud's word, never an exit code.
MISTAKE=2 PREEMPTED=75 GONE=44 DRY='' FLAGS=' ' ARGS=()
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
exec 3>&1 # where --dry-run prints, also from inside of $(...)
# shellcheck source=gcloud.sh
source "$HERE/gcloud.sh"

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() { say "error: ${*:2}"; exit "$1"; }
# The one place that quotes: words that a shell reads back as they are.
quote() { local words; printf -v words '%q ' "$@"; printf '%s' "${words% }"; }
call() { if [[ $DRY ]]; then printf '%s\n' "$(quote "$@")" >&3; else "$@"; fi; }
pause() { [[ $DRY ]] || sleep "$(awk -v s="$POLL" -v n="${1:-1}" 'BEGIN { print s * n }')"; }
flag() { [[ $FLAGS == *" $1 "* ]]; }

# options ALLOWED ARGUMENT...: --dry-run, --settings=FILE, --help and ALLOWED, up to the first word.
options() {
  local allowed=" $1 "
  shift
  while [[ ${1:-} == -* ]]; do
    case $1 in
      --dry-run) DRY=1 ;;
      --settings=*) SETTINGS=${1#*=} ;;
      -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
      --) shift; break ;;
      *) [[ $allowed == *" ${1%%=*} "* ]] || die $MISTAKE "unknown option $1: see --help" ;;
    esac
    FLAGS+="$1 "
    shift
  done
  ARGS=("$@")
  SETTINGS=${SETTINGS:-$HERE/settings.sh}
  [[ -r $SETTINGS ]] || die $MISTAKE "no $SETTINGS: copy launch/settings.example.sh there"
  IMAGE='' SLICES=1 CREATE_ARGUMENTS=() SSH_ARGUMENTS=() COORDINATOR='' KEYS='' ENVIRONMENT=()
  HOSTS='' SHARED='' BUCKET='' EXTRA='' PYTHON=3.11 SYNC=60 POLL=30 TRIES=5 BACKOFF=60
  BACKOFF_MAX=1800 BACKEND=tpu PROVISION=on-demand MAX_RUN_DURATION=7d
  # shellcheck source=settings.example.sh
  source "$SETTINGS"
  local name needed='NAME PROJECT ZONE ACCELERATOR'
  [[ $BACKEND == tpu ]] || needed='NAME HOSTS'
  for name in $needed; do [[ ${!name:-} ]] || die $MISTAKE "$SETTINGS: $name is not set"; done
  [[ $NAME =~ ^[a-z][a-z0-9-]*$ ]] || die $MISTAKE "NAME=$NAME: small letters, digits, hyphens"
  [[ $BACKEND =~ ^(tpu|ssh)$ ]] || die $MISTAKE "BACKEND=$BACKEND: tpu or ssh"
  [[ $BACKEND == tpu ]] || SLICES=1
}
