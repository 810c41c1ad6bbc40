#!/bin/sh
# Writes requirements/*.lock: every package with its hashes, for Python 3.11 and 3.12.
# Installing takes pip alone; only this, run by whoever changes dependencies, takes uv.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet --target .cache/uv --upgrade uv
compile() { .cache/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }

compile pyproject.toml requirements/build.in --extra standalone --output-file requirements/app.lock
compile pyproject.toml requirements/build.in --constraint requirements/app.lock --output-file requirements/services.lock # the image
compile pyproject.toml requirements/build.in --extra standalone --extra dev --constraint requirements/app.lock --output-file requirements/dev.lock
compile pyproject.toml requirements/build.in --extra standalone --extra bench --constraint requirements/dev.lock --output-file requirements/bench.lock
compile requirements/triton.in --no-deps --output-file requirements/triton.lock
