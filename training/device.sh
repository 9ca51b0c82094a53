#!/usr/bin/env bash
# One training run on a machine with a GPU: make products and train at the same time, evaluate, and save what the next run needs.
#
#   bash training/device.sh [MINUTES] [FLAGS of python -m training.train…]
#
# Expects .carry/ (see docs/synthesis.md): wheels/*.whl, alexnet_features.pth, sets.zip and, to continue an earlier run,
# state/state-*.safetensors. Writes into $OUT: state-*.safetensors, synthesis.safetensors, run.json, sheet.jpg, log.
set -euo pipefail
minutes=${1:-8}
shift || true
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .carry/wheels/*.whl
export PYTHONPATH=/tmp/site:$PWD GAPRAY_MODELS=$PWD/.carry PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
cards=$(python3 -c 'import torch; print(max(1, torch.cuda.device_count()))')
out=${OUT:-build/synthesis}
mkdir -p "$out"
resume=()
if compgen -G ".carry/state/state-*.safetensors" >/dev/null; then resume=(--resume .carry/state); fi
sets=()
if python3 -m zipfile -l .carry/sets.zip >/dev/null 2>&1; then sets=(--sets .carry/sets.zip); fi
train=(-m training.train --out "$out" --minutes "$minutes" "${resume[@]}" "${sets[@]}" "$@")
if [ "$cards" -gt 1 ]; then
    python3 -m torch.distributed.run --standalone --nproc-per-node "$cards" "${train[@]}" 2>&1 | tee "$out/log"
else
    python3 "${train[@]}" 2>&1 | tee "$out/log"
fi
