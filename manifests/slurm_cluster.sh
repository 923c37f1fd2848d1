#!/usr/bin/env bash
# A Ballista cluster under Slurm for one run: a scheduler and `run` on the first node, an executor on every node.
#   sbatch --nodes 4 manifests/slurm_cluster.sh my.toml [more arguments of `gristmill run`]
# Needs a gristmill built with --features ballista on the path, and a file system that all nodes share for the manifest, its files and
# the folder of runs. The job may be killed and queued again at any moment: running again goes on from the committed fragments.
#SBATCH --job-name=gristmill
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
manifest=${1:?give a manifest}
shift

port=${GRISTMILL_PORT:-50050}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
threads=${SLURM_CPUS_ON_NODE:-$(nproc)}
scratch=${TMPDIR:-/tmp}/gristmill-$SLURM_JOB_ID

gristmill scheduler --bind "0.0.0.0:$port" --host "$head" &
scheduler=$!
srun --kill-on-bad-exit=0 bash -c "exec gristmill executor '$head:$port' --bind 0.0.0.0 --host \"\$(hostname)\" \
  --threads $threads --work-dir '$scratch'" &
executors=$!
trap 'kill $scheduler $executors 2>/dev/null; wait' EXIT

gristmill run "$manifest" --scheduler "$head:$port" "$@"
