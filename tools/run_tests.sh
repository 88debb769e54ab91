#!/usr/bin/env bash
# Set up .venv and run the tests:  tools/run_tests.sh [arguments of pytest]
# on all cores; -n 0 takes one process and shows what tests print.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup_env.sh
exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"
