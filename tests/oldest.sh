#!/usr/bin/env bash
# Tests against the oldest and the newest versions that setup.py allows, each in an environment of
# its own:   tests/oldest.sh oldest|newest PYTHON [TEST ...]
#
#   oldest   setup.py's lower bounds themselves (uv's lowest-direct); what they bring is newest
#   newest   what the package index has today, constraints.txt ignored
#   PYTHON   such as python3.11, or a path
#   TEST     tests/model tests/data tests/sample tests/train, if not given
#
# Environments go into $WHERE (default: a temporary directory that is removed at the end); one that
# is there is used again. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ $# -ge 2 && $1 =~ ^(oldest|newest)$ ]] || { sed -n '2,12s/^# \?//p' "$0"; exit 2; }
which=$1 python=$2
shift 2
[[ $# -gt 0 ]] || set -- tests/model tests/data tests/sample tests/train
if [[ -z ${WHERE:-} ]]; then
  WHERE=$(mktemp -d)
  trap 'rm -rf "$WHERE"' EXIT
fi
environment=$WHERE/$which-${python##*/}
if [[ ! -e $environment/.installed ]]; then
  uv venv --quiet --clear --python "$python" "$environment"
  resolution=highest
  [[ $which == newest ]] || resolution=lowest-direct
  uv pip install --quiet --python "$environment/bin/python" --resolution "$resolution" .
  # Without torch and transformers: parity tests skip themselves.
  uv pip install --quiet --python "$environment/bin/python" pytest setuptools
  touch "$environment/.installed"
fi
"$environment/bin/python" - <<'PYTHON'
import importlib.metadata as installed, platform, re
requires = [line for line in installed.requires("msm_jax") if "extra ==" not in line]
names = sorted({re.match(r"[\w.-]+", line)[0] for line in requires} | {"jaxlib"}, key=str.lower)
print("Python", platform.python_version(), *(f"{n} {installed.version(n)}" for n in names))
PYTHON
"$environment/bin/python" -m pytest -m 'not slow' -q -p no:cacheprovider "$@"
