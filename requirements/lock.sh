#!/usr/bin/env bash
# Lock one set of requirements: lock.sh package|dev|build|runtime. No index address gets into the file.
set -euo pipefail
cd "$(dirname "$0")"
inputs=("$1.in")
options=()
case $1 in
  package) inputs=(../pyproject.toml) ;;
  dev) inputs=(../pyproject.toml dev.in) ;;
  runtime) options=(--no-emit-package torch) ;;
esac
exec uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
  "${options[@]}" "${inputs[@]}" --output-file "$1.txt"
