#!/bin/bash
# Runs a plan on several machines of a Slurm cluster. Start it in the project's root; all machines must reach the
# same store and tracking server:
#
#     export MLFLOW_TRACKING_URI=http://tracking:5000 SOLAR_STORE=/shared/store
#     sbatch --nodes=2 --gpus-per-node=8 solar_repro/running/launchers/slurm.sh main --scale paper --launcher fsdp2
#
# Ten minutes before the time limit, the first machine is asked to stop. It saves the state of the training, and
# the same command resumes from there.
#SBATCH --job-name=solar
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@600
set -euo pipefail
entry_point=$1
shift
gpus=${SLURM_GPUS_ON_NODE:?request GPUs: sbatch --gpus-per-node=8 …}
machines=(--num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * gpus)) --main_process_ip "$(hostname)")
if [ "$SLURM_NNODES" -gt 1 ]; then
    # The other machines join each training that the first machine starts (the one that runs this script).
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
