#!/usr/bin/env bash
# The same command on every host of a TPU pod, in every task of SLURM, or in several processes of this machine.
#
#   experiments/launch_pod.sh --tpu NAME --zone ZONE [--dir DIR] -- experiments/pretrain.py --config C --workdir DIR
#   experiments/launch_pod.sh --slurm -- experiments/pretrain.py --config C --workdir DIR     (inside sbatch or salloc)
#   experiments/launch_pod.sh --local 4 -- experiments/pretrain.py --config C --workdir DIR
#
# --dir is the checkout on the hosts, by default ssl_jax below the home folder. All processes must reach the workdir
# and the dataset by the same path, on a file system that they share. When one ends with an error, so do the others
# (parallel.heartbeat_timeout). On this machine SIGTERM and Ctrl-C reach all, and the script ends after the last of them.
set -euo pipefail

refuse() { echo "error: $1; see the head of $0" >&2; exit 2; }

where="" name="" zone="" dir="ssl_jax" count=""
while [ $# -gt 0 ]; do
  case "$1" in
    --tpu | --zone | --dir | --local)
      [ $# -ge 2 ] || refuse "$1 has no value"
      case "$1" in
        --tpu) where=tpu name=$2 ;;
        --zone) zone=$2 ;;
        --dir) dir=$2 ;;
        --local) where=local count=$2 ;;
      esac
      shift 2 ;;
    --slurm) where=slurm; shift ;;
    --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) refuse "argument $1 is unknown" ;;
  esac
done
[ -n "$where" ] || refuse "give --tpu NAME, --slurm or --local N"
[ $# -gt 0 ] || refuse "there is no command after --"
python=${PYTHON:-.venv/bin/python}

case "$where" in
  tpu)
    [ -n "$zone" ] || refuse "--tpu needs --zone ZONE"
    exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
      --command "cd $(printf %q "$dir") && $(printf '%q ' "$python" "$@")" ;;
  slurm)
    exec srun --kill-on-bad-exit=1 "$python" "$@" ;;
  local)
    [[ "$count" =~ ^[1-9][0-9]*$ ]] || refuse "--local $count is not a number of processes"
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count"
    pids=() code=0 stopped=""
    stop() { [ -n "$stopped" ] || kill -TERM "${pids[@]}" 2>/dev/null || true; stopped=yes; }
    trap stop INT TERM
    for ((rank = 0; rank < count; rank++)); do JAX_PROCESS_ID=$rank "$python" "$@" & pids+=($!); done
    for ((rank = 0; rank < count; rank++)); do wait -n || { code=$?; stop; break; }; done
    for pid in "${pids[@]}"; do
      while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done  # a signal ends a wait, not the process
    done
    exit "$code" ;;
esac
