#!/bin/bash
# A plan on several machines of a Slurm cluster, from the project's root; store and tracking server are shared:
#
#     export MLFLOW_TRACKING_URI=http://tracking:5000 SOLAR_STORE=/shared/store
#     sbatch --nodes=2 --gpus-per-node=8 solar_repro/launchers/slurm.sh main --scale paper --launcher fsdp2
#
# Ten minutes before the time is up the first machine is asked to end: it saves the training's state, and the
# same command goes on from there.
#SBATCH --job-name=solar
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@600
set -euo pipefail
entry_point=$1
shift
gpus=${SLURM_GPUS_ON_NODE:?ask for GPUs: sbatch --gpus-per-node=8 …}
machines=(--num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * gpus)) --main_process_ip "$(hostname)")
if [ "$SLURM_NNODES" -gt 1 ]; then
    # The other machines join each training that the first one, where this script runs, begins.
    srun --nodes=$((SLURM_NNODES - 1)) --exclude="$(hostname)" bash -c \
        'exec python -m entry_points."$0" "$@" --machine_rank $((SLURM_PROCID + 1))' \
        "$entry_point" "$@" "${machines[@]}" &
fi
python -m entry_points."$entry_point" "$@" "${machines[@]}" --machine_rank 0 &
first=$!
trap 'kill -TERM $first' TERM
status=0
wait $first || status=$?
while kill -0 $first 2> /dev/null; do wait $first || status=$?; done # a signal ends `wait` early
exit $status
