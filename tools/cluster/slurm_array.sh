#!/usr/bin/env bash
#SBATCH --array=1-64
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
# Predict with an array job: one part of the blocks for each task.
#   sbatch --array=1-64 tools/cluster/slurm_array.sh \
#     CONFIG CHECKPOINT INPUT... -o OUT [arguments of tools/predict.py]
# Tasks may run at any time, together or not, and again: blocks that are there
# are kept. The last one puts all together.
set -euo pipefail
here=${RELAY_SEG_TOOLS:-tools}  # sbatch copies this script elsewhere
exec python "$here/predict.py" "$@" \
  --part "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT"
