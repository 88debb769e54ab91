#!/usr/bin/env bash
# All benchmarks that a GPU changes, unchanged, and a training of some minutes:
#   benchmarks/gpu.sh [OUT]      (tables in OUT/*.md, work_dirs/gpu by default)
# On a machine without a GPU it says so and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-work_dirs/gpu}
python=${PYTHON:-python}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "torch sees no GPU here; run the benchmarks one by one for the CPU." >&2
  exit 1
fi
mkdir -p "$out"
run() {  # NAME COMMAND...: shown, and kept when it is whole
  local name=$1
  shift
  echo "== $* =="
  "$python" "$@" | tee "$out/.$name.unfinished"
  mv "$out/.$name.unfinished" "$out/$name.md"
}
run backbones benchmarks/backbones.py --batch 1 4 16 64 --rounds 20
run views benchmarks/views.py --batch 16 --rounds 20
run heads benchmarks/heads.py --batch 16 --rounds 20
run slide benchmarks/slide.py
run training benchmarks/training.py --batch 32 --workers 8 --rounds 20
# Some minutes of real training: rate, share of peak and memory in the log.
"$python" tools/train.py configs/relay/rt_swin2_t_dubai.py --amp bf16 \
  --work-dir "$out/train" --cfg-options train_cfg.max_iters=1000 \
  train_cfg.val_interval=1000 train_dataloader.batch_size=32 \
  default_hooks.logger.interval=50
# Do relay tokens help? At full resolution; minutes a model:
#   python benchmarks/evidence/run.py --dubai RAW --carrot-weed RAW
echo "Tables are in $out."
