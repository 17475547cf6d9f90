#!/usr/bin/env bash
# Clips -> feature shards. For Slurm: launch/slurm/extract.sbatch.
#
#   bash launch/extract.sh --config configs/data/default.yaml clips=my/videos output=runs/mine
#
# From any folder; paths on the command line are relative to that folder. Killed, the same command
# goes on where it was. As one of eight jobs of any scheduler: array.index=0 array.count=8.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ ! -e "$project/data_pipeline" ]]; then  # Slurm runs a copy
  echo "extract.sh: submit launch/slurm/extract.sbatch instead, with the same words" >&2
  exit 2
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m data_pipeline.extract "$@"
