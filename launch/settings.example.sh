# shellcheck shell=bash disable=SC2034
# What to run on: copy to launch/settings.sh (which git ignores) and change. Bash, read by every
# script of launch/; another file: SETTINGS=FILE or --settings=FILE. No secrets in here.

NAME=msm-32b                 # of the queued resource and of the directory ~/msm_jax-NAME on workers
BACKEND=tpu                  # tpu: gcloud's queued resources; ssh: machines that are there (HOSTS)

# ---- TPUs
PROJECT=my-project           # Google Cloud's project id
ZONE=us-east5-a              # where the quota is; the bucket is best in the same region
ACCELERATOR=v5p-128          # gcloud's name: v4-N and v5p-N count cores, v5litepod-N and v6e-N chips
SLICES=1                     # more: a multi-slice of so many, joined by the data centre's network
PROVISION=spot               # spot (cheap, taken away at times), reserved, flex-start or on-demand
MAX_RUN_DURATION=7d          # of flex-start: Google deletes the TPU then; at most 7 days
IMAGE=                       # runtime image; empty: the one of msm_jax/accelerators.tsv
CREATE_ARGUMENTS=()          # more for `queued-resources create`: (--network=N --service-account=S)
SSH_ARGUMENTS=()             # more for gcloud's ssh and scp: (--internal-ip) or (--tunnel-through-iap)

# ---- Machines by ssh: BACKEND=ssh and
# HOSTS="me@box1 me@box2"    # process 0 first; keys must be accepted without a question
# COORDINATOR=10.0.0.1:8476  # where the others reach process 0; empty: the first host's name, 8476
# SSH_ARGUMENTS=(-p 2222)    # more for ssh; scp gets them too

# ---- On every worker
EXTRA=tpu                    # of setup.py: tpu, gpu, or empty for the CPU
PYTHON=3.11                  # uv fetches it where the worker's own is another
KEYS=                        # names of variables of *your* shell to hand over: "ANTHROPIC_API_KEY"
ENVIRONMENT=()               # nothing secret: ("LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304")
# What makes the directory `shared` one for all workers; run in ~/msm_jax-NAME if nothing is mounted
# there. A run's --workdir=runs/X is in it. Several hosts, and spot TPUs, need it. Without the two
# times of 0 a host sees old files of the others: docs/pods.md says what else a bucket does not do.
SHARED="gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 my-bucket shared"
BUCKET=gs://my-bucket        # logs and exit codes of workers go to BUCKET/logs/NAME; empty: nowhere
SYNC=60                      # seconds between two copies of the logs

# ---- Patience
POLL=30                      # seconds between two looks
TRIES=5                      # of what fails in passing: ssh, gcloud, crashed runs
BACKOFF=60                   # seconds before babysit tries again; doubles up to
BACKOFF_MAX=1800
