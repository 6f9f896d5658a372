#!/usr/bin/env bash
# Trains on this host: on all its devices, or, to rehearse a run on several hosts, as several
# processes on its CPU.
#
#   CONFIG=configs/demo.py WORKDIR=runs/demo launch/local.sh [flags of toklip_jax.main]
#   PROCESSES=2 launch/local.sh
#
# A run that was preempted (status 75) is started again, from what it saved. SIGTERM and Ctrl-C are
# handed on; after them nothing is started again. Otherwise the exit status is the run's.
set -euo pipefail
# "${x[@]+...}" below: bash before 4.4 takes an empty array for one that is not set.

# What to set, here or in the environment.
CONFIG=${CONFIG:-configs/demo.py}
WORKDIR=${WORKDIR:-runs/demo}
PYTHON=${PYTHON:-python}
PROCESSES=${PROCESSES:-1}             # more than 1: on CPU
DEVICES=${DEVICES:-4}                 # CPU devices of each of several processes
PORT=${PORT:-8476}                    # where several processes meet
RESTART_SECONDS=${RESTART_SECONDS:-5} # before a preempted run is resumed
GRACE_SECONDS=${GRACE_SECONDS:-60}    # for the others to end when one process has failed

PREEMPTED=75
is_stopping=0
pids=()

send() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
trap 'is_stopping=1; send TERM' TERM
trap 'is_stopping=1; send INT' INT

begin() {
  local i
  pids=()
  set -m # groups of their own: Ctrl-C reaches them once, through this script
  for ((i = 0; i < PROCESSES; i++)); do
    (
      if ((PROCESSES > 1)); then
        export TOKLIP_COORDINATOR=localhost:$PORT TOKLIP_NUM_PROCESSES=$PROCESSES
        export TOKLIP_PROCESS_ID=$i JAX_PLATFORMS=cpu
        export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
      fi
      exec "$PYTHON" -m toklip_jax.main --config="$CONFIG" --workdir="$WORKDIR" "$@"
    ) &
    pids+=($!)
  done
  set +m
}

# Waits for all; `status` is that of the first that failed, a preemption giving way to a failure.
finish() {
  local one pid still deadline=0
  status=0
  while ((${#pids[@]})); do
    sleep 0.2
    still=()
    for pid in ${pids[@]+"${pids[@]}"}; do
      if kill -0 "$pid" 2>/dev/null; then
        still+=("$pid")
        continue
      fi
      one=0
      wait "$pid" || one=$?
      if ((one && (status == 0 || status == PREEMPTED))); then status=$one; fi
    done
    pids=(${still[@]+"${still[@]}"})
    if ((status && status != PREEMPTED && !deadline)); then
      send TERM # they would wait for the one that is gone
      deadline=$((SECONDS + GRACE_SECONDS))
    elif ((deadline && SECONDS >= deadline)); then
      send KILL
    fi
  done
}

flags=("$@")
while true; do
  begin ${flags[@]+"${flags[@]}"}
  finish
  if ((status != PREEMPTED || is_stopping)); then exit "$status"; fi
  echo "local.sh: preempted; going on in $RESTART_SECONDS s" >&2
  sleep "$RESTART_SECONDS"
  if ((is_stopping)); then exit "$status"; fi
  flags=()
  for flag in "$@"; do # --restart would delete what is to go on
    case $flag in -restart | --restart | -restart=* | --restart=*) ;; *) flags+=("$flag") ;; esac
  done
done
