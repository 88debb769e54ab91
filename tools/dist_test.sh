#!/usr/bin/env bash
# Test on several GPUs of this machine, or as many processes without a GPU:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# On several machines, set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2
  exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
if [ "${NNODES:-1}" = 1 ]; then
  rendezvous=(--standalone)  # a free port of its own
else
  rendezvous=(--nnodes="$NNODES" --node-rank="${NODE_RANK:?set NODE_RANK}"
    --master-addr="${MASTER_ADDR:?set MASTER_ADDR}"
    --master-port="${PORT:-29500}")
fi
here=$(dirname "${BASH_SOURCE[0]}")
exec python -m torch.distributed.run "${rendezvous[@]}" \
  --nproc-per-node="$gpus" "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
