#!/usr/bin/env bash
''':'  # Bash runs these lines and never returns; to Python they are a string.
[[ -e "$(dirname "$0")/../pretrain" ]] || {  # Slurm runs a copy
  echo "pretrain.sh: submit launch/slurm/pretrain.sbatch instead, with the same words" >&2
  exit 2
}
# One rank of a launcher's (deepspeed --no_python); LOCAL_RANK alone may be anybody's.
[[ -n "${RANK:-}" && -n "${LOCAL_RANK:-}" && -n "${WORLD_SIZE:-}" ]] && exec python -u "$0" "$@"
for word in "$@"; do  # help needs no launcher
  case $word in -h | --help) exec python "$0" --help ;; esac
done
stop() {  # USR1 ends the launchers and has the ranks save; at TERM they would kill them after 30 s
  trap : TERM USR1 HUP
  trap 'kill -s KILL -- "-$launcher"; exit 130' INT
  echo "stopped by a signal, which its ranks save at; the same command goes on from the last checkpoint" >&2
  disown "$launcher"  # or bash would tell that it got the signal
  # With --hostfile, pdsh's connections are not of the group; ranks save when they lose theirs.
  ssh=$(pgrep -x ssh -P "$(pgrep -d, -g "$launcher")" 2>/dev/null)
  kill -s USR1 -- "-$launcher" $ssh 2>/dev/null
  for _ in {1..3000}; do kill -0 -- "-$launcher" 2>/dev/null || exit "$1"; sleep 0.1; done
  kill -s KILL -- "-$launcher"
  exit "$1"
}
set -m  # the launcher and its ranks become a process group, which one signal reaches
export MEMOBERT_PRETRAIN_SH=1  # its ranks leave the words to us
if [[ "${CUDA_VISIBLE_DEVICES:-}" =~ (GPU|MIG)- ]]; then  # deepspeed knows GPUs by number alone
  [[ -z "${DEEPSPEED_ARGS:-}" ]] || {
    echo "pretrain.sh: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has names, which deepspeed cannot read; unset DEEPSPEED_ARGS and torchrun starts a rank for each, or name the GPUs by number" >&2
    exit 2
  }
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  torchrun --standalone --nproc_per_node "${#gpus[@]}" "$0" "$@" &
else
  deepspeed ${DEEPSPEED_ARGS:-} "$0" "$@" &
fi
launcher=$!
# What is ignored at the start stays so: HUP under nohup, INT in the background of a script.
trap "stop 130" INT
trap "stop 75" TERM USR1  # as the ranks: start me again
trap "stop 129" HUP
wait "$launcher"
exit
: <<'# end of Python'
'''
# Pretrain MEmoBERT. Bash and Python at once, so that both of these work from any folder:
#     deepspeed --num_gpus 2 launch/pretrain.sh --config configs/pretrain/tiny.yaml
#     bash launch/pretrain.sh --config configs/pretrain/tiny.yaml
# DEEPSPEED_ARGS="--num_gpus 2 --master_port 29501" gives the second the launcher's own options.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.launcher import follow_launcher

if __name__ == "__main__":
    follow_launcher()  # before the seconds that importing torch takes
    from data_pipeline.command_line import leave
    from pretrain.cli import main

    leave(main())
# end of Python
