#!/usr/bin/env bash
# Packs a model into an archive (.mar) for TorchServe; `handlers/build.sh --help` lists the flags.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${TORCHRELAY_PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
PYTHONPATH="$root/scripts${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m torchrelay.authoring.build_sh "$@"
