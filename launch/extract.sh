#!/usr/bin/env bash
# Clips -> feature shards, on this machine or as one task of a Slurm array.
#
#   bash launch/extract.sh --config configs/data/default.yaml clips=my/videos output=runs/mine
#   sbatch --array=0-7 launch/extract.sh --config configs/data/default.yaml clips=... output=...
#
# From any folder; paths on the command line are relative to that folder. Killed or requeued, the
# same command goes on where it was.
set -euo pipefail

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ ! -e "$project/data_pipeline" && -n "${SLURM_SUBMIT_DIR:-}" ]]; then
  # Slurm runs a copy of this file: the job knows the original, else the project is at or above
  # where the job was submitted.
  script="$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | sed -n 's/^ *Command=\([^ ]*\).*/\1/p' | head -n 1 || true)"
  project="$(dirname "$(dirname "$script")")"
  [[ "$script" == /* && -e "$project/data_pipeline" ]] || project="$SLURM_SUBMIT_DIR"
  while [[ ! -e "$project/data_pipeline" && "$project" != / ]]; do
    project="$(dirname "$project")"
  done
  if [[ ! -e "$project/data_pipeline" ]]; then
    echo "extract.sh: no folder data_pipeline in or above $SLURM_SUBMIT_DIR; submit the job from" \
      "the project's folder" >&2
    exit 2
  fi
fi
cd "${SLURM_SUBMIT_DIR:-.}"

array=()
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  step="${SLURM_ARRAY_TASK_STEP:-1}"
  index=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / step))
  last=$(((${SLURM_ARRAY_TASK_MAX:-$SLURM_ARRAY_TASK_ID} - SLURM_ARRAY_TASK_MIN) / step))
  # Shares are counted from the first task to the last: a hole among them would be left undone.
  if ((last >= SLURM_ARRAY_TASK_COUNT || index >= SLURM_ARRAY_TASK_COUNT)); then
    echo "extract.sh: the $SLURM_ARRAY_TASK_COUNT tasks of this array have holes between them; use" \
      "a contiguous range, such as --array=0-7. What is done already is not done again" >&2
    exit 2
  fi
  array=("array.index=$index" "array.count=${SLURM_ARRAY_TASK_COUNT}")
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m data_pipeline.extract ${array[@]+"${array[@]}"} "$@"
