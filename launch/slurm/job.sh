# What the jobs of this folder have in common: where the project is, the site, and how a job ends.
# They source it with `job`, their number, and `about`, what Slurm knows of them.
#
# A job ends with the exit code of its command, and the reason of a failure is its log's last line.
# Instead it goes back into the queue, and on from there, when its command was asked to stop (75, or
# USR1 itself before the command knew it), at most RESTARTS times, or as often as Slurm preempts it;
# and when the command was killed (no memory left), at most RETRIES times. Of several ranks the
# first that ended tells: srun ends the others. What Slurm itself ended is left to Slurm, which
# requeues what it preempted and what was not done within its GraceTime.

RESTARTS=20
RETRIES=0

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
CONTAINER=()
site="${MEMOBERT_SITE:-$project/launch/slurm/site.sh}"
if [[ -n "${MEMOBERT_SITE:-}" || -e "$site" ]]; then
  # shellcheck source=launch/slurm/site.example.sh
  source "$site"
fi
cd "$SLURM_SUBMIT_DIR"  # paths on the command line are relative to where the job was submitted
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export SLURM_EXPORT_ENV=ALL  # a job submitted with --export=NONE would give its tasks nothing
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
set +u  # what a site sources need not bear it
if declare -F set_up >/dev/null; then set_up; fi
set -u

# Where ranks meet: the first node, by the address that Slurm has of it. Names may not resolve.
export_address() {
  local node
  node="$(scontrol show node "$SLURMD_NODENAME")"
  MASTER_ADDR="$(sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p' <<<"$node")"
  export MASTER_ADDR
}

# run_step COMMAND: the command on every task of the job, to the job's end.
run_step() {
  local code=0 from state
  log="$(sed -n 's/^ *StdErr=//p' <<<"$about")"
  from="$(stat -c %s "$log" 2>/dev/null || echo 0)"
  mark "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
  trap 'scancel --signal=USR1 "$job"' USR1  # for the script alone (B:, --batch): hand it on
  trap 'ended=1' TERM  # reaches the command, too, whose end is waited for
  # A rank that ends badly ends the others: they would wait for it.
  srun --kill-on-bad-exit=1 "${CONTAINER[@]}" "$@" &
  while kill -0 $! 2>/dev/null; do wait $! && code=0 || code=$?; done
  wait $! && code=0 || code=$?  # the last one above may be a signal's
  if ((code == 0)); then exit 0; fi
  said="$(tail -c "+$((from + 1))" "$log" 2>/dev/null || true)"
  state="$(ask squeue --noheader --job "$job" --format=%T || true)"
  if [[ "$state" == RUNNING || "$state" == SIGNALING ]]; then  # or still being asked to stop
    case "$(first_end)" in
      *"exit code 75" | *"User defined signal 1")
        if preempted; then go_on "was preempted"; else go_on "was asked to stop" "$RESTARTS"; fi
        ;;
      *Killed | *"Out Of Memory"*) go_on "was killed" "$RETRIES" ;;
    esac
  else
    mark "is ${state:-unknown} to Slurm, which decides what becomes of it"
  fi
  echo "$SLURM_JOB_NAME: exit code $code; $(reason)" >&2
  exit "$code"
}

mark() { echo "== $SLURM_JOB_NAME: $1" >&2; }

# ask COMMAND: one of Slurm's, which a signal to the job does not end before it has answered.
ask() { (trap '' TERM USR1 && exec "$@"); }

# In its GraceTime the command ends before Slurm would requeue the job.
preempted() { [[ "$(ask scontrol show job "$job")" == *PreemptTime=[0-9]* ]]; }

# go_on WHY [MOST]: back into the queue, unless it was there so often for this; comes back if not.
go_on() {
  local times most="${2:-}"
  times="$(grep -acF "== $SLURM_JOB_NAME: $1" "$log" || true)"
  if [[ -n "$most" ]] && ((times >= most)); then
    if ((most)); then mark "$1 once more, after $times restarts: give each start more time or memory"; fi
  elif ended=0 && ask scontrol requeue "$job" 2>/dev/null; then
    mark "$1; goes back into the queue and goes on from there"
    ((ended)) || sleep 60  # Slurm ends this script
    exit "$code"
  else
    mark "$1, and may not be requeued; submitted again, it goes on from there"
  fi
}

# Of this start: what srun said of the first task that ended badly.
first_end() { grep -aE '^srun: error: .*: tasks? [0-9,-]+: ' <<<"$said" | sed -n 1p || true; }

# Of this start: the command's last message, with its lines below (Slurm's own may stand between
# them), or the error of a traceback; else what srun said of a task; else the last line.
reason() {
  local words
  words="$(awk '
    /^(srun|slurmstepd): / { next }
    /^(\[rank [0-9]+\] )?(extract|pretrain|finetune|doctor|benchmark|(data_pipeline|pretrain|finetune)\.[a-z_.]+): / ||
    /^[A-Za-z_.]+(Error|Exception|Interrupt|Exit)(:|$)/ { told = $0; below = 1; next }
    below && /^  / { sub(/^ +/, " "); told = told $0; next }
    { below = 0 }
    END { print told }' <<<"$said")"
  words="${words:-$(first_end)}"
  echo "${words:-$(tail -n 1 <<<"$said")}"
}
