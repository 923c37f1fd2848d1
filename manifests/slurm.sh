#!/usr/bin/env bash
# A run on one node of a Slurm cluster. usage: sbatch manifests/slurm.sh MANIFEST [ROOT]
#
# ROOT (default runs) must be on storage that every node sees. Two minutes before the time limit, and when it is preempted, the run is asked to
# stop, which it does at the next safe point; the job is queued again and goes on where it was. A node that dies costs no more: with --requeue
# Slurm starts the job again. Set GRISTMILL to the program if it is not on the path.
#SBATCH --job-name=gristmill
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -uo pipefail

manifest=${1:?usage: sbatch manifests/slurm.sh MANIFEST [ROOT]}
root=${2:-runs}
threads=${SLURM_CPUS_PER_TASK:-$(nproc)}
run=("${GRISTMILL:-gristmill}" run "$manifest" --root "$root" --threads "$threads")
# The limit is of query operators; the rest of the process has the other 40 %.
if [ "${SLURM_MEM_PER_NODE:-0}" -gt 0 ]; then
  run+=(--memory-limit "$((SLURM_MEM_PER_NODE * 6 / 10))MB")
elif [ "${SLURM_MEM_PER_CPU:-0}" -gt 0 ]; then
  run+=(--memory-limit "$((SLURM_MEM_PER_CPU * threads * 6 / 10))MB")
fi
echo "$(date -u +%FT%TZ) start ${SLURM_RESTART_COUNT:-0} on $(hostname): ${run[*]}"

stopped=
child=
trap 'stopped=yes; [ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM
"${run[@]}" &
child=$!
code=0
wait "$child" || code=$?
# A signal ends `wait` before the child.
if [ -n "$stopped" ]; then
  code=0
  wait "$child" || code=$?
fi
# 5: stopped in time, finished work is kept.
if [ "$code" -eq 5 ] && [ -n "$stopped" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  echo "stopped in time; job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID" || echo "it could not be: submit the same job once more to go on" >&2
fi
exit "$code"
