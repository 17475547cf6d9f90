#!/usr/bin/env bash
# Clips -> feature shards, on this machine or as one task of a Slurm array.
#
#   bash launch/extract.sh --config configs/data/default.yaml clips=my/videos output=runs/mine
#   sbatch --array=0-7 launch/extract.sh --config configs/data/default.yaml clips=... output=...
#
# Killed or requeued, the same command goes on where it was.
set -euo pipefail
# Slurm runs a copy of this file, so the project is where the job was submitted.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"

array=()
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  array=(
    "array.index=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / SLURM_ARRAY_TASK_STEP))"
    "array.count=${SLURM_ARRAY_TASK_COUNT}"
  )
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${PYTHON:-python}" -m data_pipeline.extract ${array[@]+"${array[@]}"} "$@"
