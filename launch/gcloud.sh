# shellcheck shell=bash disable=SC2034
# The one way to call gcloud compute tpus, and what its errors mean. Sourced by lib.sh.
TRACK=() # (alpha) for what gcloud has nowhere else

# cloud GROUP VERB NAME ARGUMENT...: what gcloud prints. Passing errors are tried again; returns GONE
# if gcloud says that NAME does not exist; what only the user can fix ends the script.
cloud() {
  local n error fix
  for ((n = 1; ; n++)); do
    call gcloud "${TRACK[@]}" compute tpus "$@" --zone="$ZONE" --project="$PROJECT" \
      2>"$TMP/error" </dev/null && return
    error=$(tr '\n' ' ' <"$TMP/error")
    case $error in *ALREADY_EXISTS* | *"already exists"*) return 0 ;; esac
    ! gone "$error" "$1" "$3" || { say "gcloud: $error"; return "$GONE"; }
    ! fix=$(advice "$error") || die "$MISTAKE" "$error: $fix"
    ((n < TRIES)) || die 1 "gcloud failed $n times: $error"
    say "gcloud failed, again soon: $error"
    pause "$n"
  done
}

# gone ERROR GROUP NAME: whether the API says that NAME itself does not exist. "not found" alone is
# also said of gcloud, Python, a configuration, a project and a zone; then NAME may well exist and
# cost money.
gone() {
  local kind=nodes
  [[ $2 == tpu-vm ]] || kind=queuedResources
  [[ $1 =~ NOT_FOUND:.*/$kind/$3([^a-z0-9-]|$) ]]
}

# advice ERROR: what the user has to do; fails for an error that may pass by itself, which is any that
# is not known. The texts are those of gcloud 528 and of the Cloud TPU API.
advice() {
  local error=${1,,} console=https://console.cloud.google.com
  case $error in
    *"connection "[rab]* | *econnreset* | *connectionpool* | *"timed out"* | *"name resolution"* | \
      *"unable to find the server"* | *"per minute"* | *rate_limit* | *"too many requests"* | \
      *"'status': '5"* | *unavailable* | *deadline_exceeded* | *internal:*) return 1 ;;
    *"active account selected"* | *reauth* | *invalid_grant* | *unauthenticated* | *"auth login"* | \
      *"authentication credentials"*) echo "run gcloud auth login" ;;
    *"key is not present in the ssh agent"*) echo "run ssh-add ~/.ssh/google_compute_engine" ;;
    *billing*) echo "enable billing: $console/billing/linkedaccount?project=$PROJECT" ;;
    *service_disabled* | *"has not been used in project"* | *"it is disabled"* | *"not enabled on"*)
      echo "run gcloud services enable tpu.googleapis.com --project=$PROJECT" ;;
    *quota*)
      # Google counts a resource that was taken away until its deletion has been carried out.
      [[ ! ${AFTER_PREEMPTION:-} ]] || return 1
      echo "request quota ($console/iam-admin/quotas?project=$PROJECT), or use a smaller slice" ;;
    *permission* | *"does not have access"* | *forbidden* | *"access is unauthorized"*)
      echo "check PROJECT, ZONE and the roles TPU Admin and Service Account User" ;;
    *invalid_argument* | *"invalid value"* | *"invalid choice"* | *unrecognized* | *") argument -"* | \
      *"must be specified"* | *"not properly specified"*) echo "correct $SETTINGS" ;;
    *"command not found"* | *"no such file or directory"* | *"python was not found"* | \
      *"must have python"* | *"not currently set"* | *"configuration ["*"not "*)
      echo "install gcloud or repair its configuration, until gcloud info works" ;;
    *not_found* | *"not found"*) echo "check PROJECT, ZONE and the image: one of them does not exist" ;;
    *) return 1 ;;
  esac
}

# mistakes FILE...: ends the script if gcloud itself, and no worker, reports there what only the user
# can fix. A node that is not found may have been taken away.
mistakes() {
  local error fix
  error=$(grep -hE '^ERROR: \(gcloud|gcloud: command not found' "$@" | grep -v NOT_FOUND) || return 0
  ! fix=$(advice "$error") || die "$MISTAKE" "$error: $fix"
}

# via NODE: sets GROUP, PLACE and NUMBER, gcloud's words for ssh and scp to NODE. Only queued-resources
# has IAP and batches outside of alpha; it counts nodes.
via() {
  GROUP=tpu-vm PLACE=$1 NUMBER=()
  tunnels || return 0
  local number=${1#"$NAME"}
  GROUP=queued-resources PLACE=$NAME NUMBER=("--node=$((${number#-} + 0))")
}
tunnels() { [[ " ${SSH_ARGUMENTS[*]}" =~ \ --(tunnel-through-iap|batch-size) ]]; }
