#!/usr/bin/env bash
# All three stages, chained, for one clip table; see finetune/pipeline.py.
#
#   bash launch/slurm/pipeline.sh clips=movies.csv output=runs/movies extract.tasks=100
#
# From any folder; paths on the command line are relative to that folder.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
site="${MEMOBERT_SITE:-$project/launch/slurm/site.sh}"
if [[ -n "${MEMOBERT_SITE:-}" && ! -e "$site" ]]; then
  echo "pipeline: no site file $site, which MEMOBERT_SITE names; unset it, or copy launch/slurm/site.example.sh there" >&2
  exit 2
fi
set -a  # sbatch and the pipeline read the site's settings from their environment
# shellcheck source=launch/slurm/site.example.sh
if [[ -e "$site" ]]; then source "$site"; fi
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m finetune.pipeline "$@"
