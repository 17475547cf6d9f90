#!/usr/bin/env bash
# bash launch/finetune.sh --config configs/finetune/prompt.yaml [key=value ...]
# From any folder; paths in the config and on the command line are relative to that folder.
# --quiet: a mistake is one message, without a traceback of the launcher's own under it.
# ACCELERATE_ARGS goes to accelerate: "--config_file configs/accelerate/multi_gpu.yaml". For several
# processes on CPUs: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 finetune/run.py ...
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ ! -e "$project/finetune" ]]; then  # Slurm runs a copy
  echo "finetune.sh: submit launch/slurm/finetune.sbatch instead, with the same words" >&2
  exit 2
fi
for word in "$@"; do  # help needs no launcher
  if [[ "$word" == -h || "$word" == --help ]]; then
    exec "${PYTHON:-python}" "$project/finetune/run.py" --help
  fi
done
# shellcheck disable=SC2086  # several words are meant
exec accelerate launch --quiet ${ACCELERATE_ARGS:-} "$project/finetune/run.py" "$@"
