# What a cluster calls its things. Copy this to site.sh beside it and fill it in; the jobs of this
# folder and pipeline.sh read it, or the file that MEMOBERT_SITE names. What is left out is Slurm's
# own default. To submit a job by hand: source launch/slurm/site.sh; sbatch $EXTRACT ...

# sbatch reads these itself.
#export SBATCH_ACCOUNT=lab
#export SBATCH_PARTITION=gpu

# Options of sbatch for each stage. Extraction runs on GPUs or on cores alone, many tasks wide.
EXTRACT="--cpus-per-task=8 --time=12:00:00"
# One task a GPU: a task is a rank. --gpus-per-node, not --gpus-per-task: ranks choose by number.
PRETRAIN="--nodes=1 --ntasks-per-node=1 --cpus-per-task=4 --time=24:00:00"
#PRETRAIN="--nodes=4 --gpus-per-node=4 --ntasks-per-node=4 --cpus-per-task=8 --time=24:00:00"
FINETUNE="--cpus-per-task=4 --time=4:00:00"
#FINETUNE="--gpus-per-node=1 --cpus-per-task=4 --time=4:00:00"
# Sums and tables: one core for minutes.
SMALL="--cpus-per-task=1 --time=0:30:00"

# Run at the start of every job, on its first node.
set_up() {
  :  # module load cuda/12.6
  #source /path/to/memobert/.venv/bin/activate
}

# Stands before every command of a job, on every node.
CONTAINER=()
#CONTAINER=(apptainer exec --nv /path/to/memobert.sif)

# A fast disk of the node's own, for temporary files.
#export TMPDIR=/scratch/$USER
