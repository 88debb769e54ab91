#!/usr/bin/env bash
# Set up .venv, train and test RT-SegFormer and its plain twin on real aerial
# scenes, print a table and draw work_dirs/demo/overview.png:
#   tools/demo.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup_env.sh
exec .venv/bin/python tools/demo.py "$@"
