#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud, by queued resources. On your own machine, with gcloud
# set up, in a clone of the repository (what is committed is what runs):
#
#   launch/tpu_pod.sh run [flags]   creates the slice, waits for it, installs, starts on all workers
#                                   and watches; after a preemption it creates it again and resumes.
#                                   Ctrl-C ends the watching alone; `run` again takes it up
#   launch/tpu_pod.sh logs [N]      follows the log of worker N (0)
#   launch/tpu_pod.sh status        of the slice, and of the run
#   launch/tpu_pod.sh stop          has the run save and end, and keeps the slice
#   launch/tpu_pod.sh create        only creates the slice and waits for it
#   launch/tpu_pod.sh delete        deletes the slice, which costs until then
#
# Exit status of `run`: the run's. Flags are those of toklip_jax.main.
set -euo pipefail
# "${x[@]+...}" below: bash before 4.4 takes an empty array for one that is not set.

# What to set, here or in the environment.
NAME=${NAME:-toklip}
PROJECT=${PROJECT:-}                       # gcloud's own unless set
ZONE=${ZONE:-us-east5-b}                   # where the type is offered
ACCELERATOR=${ACCELERATOR:-v6e-64}
RUNTIME=${RUNTIME:-v2-alpha-tpuv6e}        # v2-alpha-tpuv5-lite for v5litepod-*, v2-alpha-tpuv5 for v5p-*
SPOT=${SPOT:-1}                            # 1: cheaper, and may be preempted
CONFIG=${CONFIG:-configs/demo.py}
WORKDIR=${WORKDIR:-/mnt/toklip/runs/first} # on a filesystem that all workers share
SHARE=${SHARE:-}                           # NFS, as Filestore's 10.0.0.2:/share: mounted at /mnt/toklip
PACKAGES=${PACKAGES:-gcsfs}                # besides the project: gcsfs reads gs:// shards
COORDINATOR_PORT=${COORDINATOR_PORT:-8476} # JAX's own, 8482, is closed on some slices
POLL_SECONDS=${POLL_SECONDS:-60}
START_SECONDS=${START_SECONDS:-120}        # for the run before to have ended

PREEMPTED=75
place=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

queued() { gcloud compute tpus queued-resources "$1" "$NAME" "${place[@]}" "${@:2}"; }
on() { gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker="$1" --command="$2"; }
say() { echo "tpu_pod.sh: $*" >&2; }

# ACTIVE, SUSPENDED, WAITING_FOR_RESOURCES, ...; MISSING; UNKNOWN if Google could not be asked.
state() {
  local answer
  if answer=$(queued describe --format='value(state.state)' 2>&1); then
    grep -oE '^[A-Z_]+$' <<<"$answer" | tail -n 1 || echo UNKNOWN
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo MISSING
  else
    say "$answer"
    echo UNKNOWN
  fi
}

create() {
  local now spot=()
  now=$(state)
  if [[ $now == SUSPEND* || $now == FAILED ]]; then
    remove
    now=MISSING
  fi
  if [[ $now == MISSING ]]; then
    if ((SPOT)); then spot=(--spot); fi
    queued create --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
      --runtime-version="$RUNTIME" ${spot[@]+"${spot[@]}"}
    is_installed=0
  fi
  while now=$(state) && [[ $now != ACTIVE ]]; do
    if [[ $now == FAILED || $now == MISSING ]]; then
      say "the request is $now: see gcloud compute tpus queued-resources describe $NAME"
      exit 1
    fi
    say "$now"
    sleep "$POLL_SECONDS"
  done
}

remove() {
  local now
  while now=$(state) && [[ $now != MISSING ]]; do
    queued delete --force --quiet || sleep "$POLL_SECONDS"
  done
}

install() {
  local folder tries=3
  folder=$(mktemp -d)
  git archive --format=tar.gz --output="$folder/toklip.tar.gz" HEAD
  until send "$folder/toklip.tar.gz"; do # a new slice may not take connections at once
    if ((--tries == 0)); then exit 1; fi
    sleep "$POLL_SECONDS"
  done
  rm -r "$folder"
  is_installed=1
}

send() {
  gcloud compute tpus tpu-vm scp "$1" "$NAME:toklip.tar.gz" "${place[@]}" --worker=all &&
    on all "set -e
      mkdir -p toklip && tar xzf toklip.tar.gz -C toklip && cd toklip
      python3 -m pip install --quiet --user uv
      test -x .venv/bin/python || python3 -m uv venv --quiet --python 3.12 .venv
      python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu]' $PACKAGES
      if [ -n '$SHARE' ] && ! mountpoint -q /mnt/toklip; then
        sudo apt-get -qq install -y nfs-common >/dev/null
        sudo mkdir -p /mnt/toklip
        sudo mount -t nfs '$SHARE' /mnt/toklip
        sudo chmod 1777 /mnt/toklip
      fi"
}

# On all workers, detached from this machine; what ran before has START_SECONDS to end.
begin() {
  local command
  command=$(printf ' %q' .venv/bin/python -m toklip_jax.main --config="$CONFIG" --workdir="$WORKDIR" "$@")
  on all "set -e
    cd toklip
    is_up() { test -f run.pid && kill -0 \"\$(cat run.pid)\" 2>/dev/null; }
    for _ in \$(seq $((START_SECONDS * 5))); do if is_up; then sleep 0.2; fi; done
    if is_up; then echo \"\$(hostname): the run before has not ended\" >&2; exit 1; fi
    rm -f run.status run.stopped
    export JAX_COORDINATOR_PORT=$COORDINATOR_PORT
    # The trap lets the shell outlive a SIGTERM to its group, and write the status.
    setsid bash -c 'trap : TERM; \"\$@\"; echo \$? >run.status' -$command >>run.log 2>&1 </dev/null &
    echo \$! >run.pid"
}

# The run on worker 0: running, stopped, a status, or none; or unreachable.
outcome() {
  local answer
  answer=$(on 0 "cd toklip 2>/dev/null || { echo toklip:none; exit; }
    if [ -f run.status ] && [ -f run.stopped ]; then echo toklip:stopped
    elif [ -f run.status ]; then echo toklip:\$(cat run.status)
    elif [ -f run.pid ] && kill -0 \$(cat run.pid) 2>/dev/null; then echo toklip:running
    else echo toklip:none; fi" 2>/dev/null) || true
  grep -oE '^toklip:[a-z0-9]+' <<<"$answer" | tail -n 1 | cut -d: -f2 | grep . || echo unreachable
}

run() {
  local flag flags=("$@") now found
  is_installed=0
  create
  found=$(outcome)
  while true; do
    if [[ $found == running ]]; then
      say "running; its log: launch/tpu_pod.sh logs"
    else
      if ((!is_installed)); then install; fi
      begin ${flags[@]+"${flags[@]}"}
      say "started on all workers; its log: launch/tpu_pod.sh logs"
    fi
    flags=()
    for flag in "$@"; do # --restart would delete what is to go on
      case $flag in -restart | --restart | -restart=* | --restart=*) ;; *) flags+=("$flag") ;; esac
    done
    while true; do
      sleep "$POLL_SECONDS"
      found=$(outcome)
      now=$(state)
      if [[ $found != running && $found != unreachable ]]; then break; fi
      if [[ $now == SUSPEND* || $now == FAILED || $now == MISSING ]]; then
        found=gone
        break
      fi
    done
    case $found in
    gone | none)
      say "the slice is $now, the run is gone: creating what is missing, and going on"
      is_installed=0 # a host that was restarted has lost its mount
      create
      ;;
    "$PREEMPTED") say "preempted after saving: going on" ;;
    stopped) exit "$PREEMPTED" ;;
    *)
      say "the run ended with status $found; the slice is still there: launch/tpu_pod.sh delete"
      exit "$found"
      ;;
    esac
  done
}

is_installed=0
case ${1:-} in
run) run "${@:2}" ;;
create) create ;;
logs) on "${2:-0}" "tail -n 100 -F toklip/run.log" ;;
status) echo "slice $NAME: $(state)"; echo "run: $(outcome)" ;;
stop) on all "cd toklip && touch run.stopped && kill -TERM -- -\$(cat run.pid)" ;;
delete) remove ;;
*)
  sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
