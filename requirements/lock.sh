#!/usr/bin/env bash
# Lock one set of requirements: lock.sh package|dev|build|docs|runtime|jre|fastai|serving. No index address gets into the file.
set -euo pipefail
cd "$(dirname "$0")"
inputs=("$1.in")
options=()
overrides=""
case $1 in
  package) inputs=(../pyproject.toml) ;;
  dev) inputs=(../pyproject.toml dev.in) ;;
  runtime) options=(--no-emit-package torch) ;;
  fastai) # for no platform at all: torch comes from another index or a wheel folder, spacy is for texts and vision never imports it
    options=(--overrides /dev/stdin)
    overrides=$'spacy ; sys_platform == "none"\ntorch ; sys_platform == "none"' ;;
esac
exec uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
  "${options[@]}" "${inputs[@]}" --output-file "$1.txt" <<< "$overrides"
