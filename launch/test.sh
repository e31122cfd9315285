#!/usr/bin/env bash
# Install the development extras, then lint, types and all tests. Arguments go to pytest: bash launch/test.sh -k index
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment dev
ensure_java
ensure_iproute
cd "$repository"

echo "== ruff"
ruff check .
ruff format --check .
echo "== mypy"
mypy
echo "== pytest"
# One thread a process: the tests are small, and two gloo ranks share the cores.
OMP_NUM_THREADS=1 python -m pytest "$@"
