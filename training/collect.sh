#!/usr/bin/env bash
# After a run: keep its state for the next one, append its line to the log, copy its weights and pictures.
#
#   bash training/collect.sh FOLDER        # the folder of the run's files
set -euo pipefail
mkdir -p .carry/state
rm -f .carry/state/state-*.safetensors
cp "$1"/state-*.safetensors .carry/state/
cp "$1"/synthesis.safetensors "$1"/sheet.jpg .carry/
python3 - "$1/run.json" docs/synthesis_runs.jsonl <<'PY'
import json, sys

line = json.load(open(sys.argv[1]))
line.pop("objects")
with open(sys.argv[2], "a") as log:
    log.write(json.dumps(line) + "\n")
PY
