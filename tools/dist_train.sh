#!/usr/bin/env bash
# Train on several GPUs of this machine, or as many processes without a GPU:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On several machines, set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
  exit 2
fi
config=$1 gpus=$2
shift 2
if [ "${NNODES:-1}" = 1 ]; then
  rendezvous=(--standalone)  # a free port of its own
else
  rendezvous=(--nnodes="$NNODES" --node-rank="${NODE_RANK:?set NODE_RANK}"
    --master-addr="${MASTER_ADDR:?set MASTER_ADDR}"
    --master-port="${PORT:-29500}")
fi
here=$(dirname "${BASH_SOURCE[0]}")
exec python -m torch.distributed.run "${rendezvous[@]}" \
  --nproc-per-node="$gpus" "$here/train.py" "$config" --launcher pytorch "$@"
