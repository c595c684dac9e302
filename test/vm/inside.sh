#!/usr/bin/env bash
# Runs the tests inside the virtual machine, once for each cgroup driver. The last line is the
# result: `wherry-vm: exit CODE`.
#
#   /payload/inside.sh [DRIVER [FILTER…]]     by hand: one driver, arguments of the test program
set -uo pipefail
# shellcheck disable=SC1091
. /payload/settings

# Sets the paths of the tests' inputs and outputs.
prepare() {
    export WHERRY_CACHE=/tmp/cache WHERRY_BIN_DIR=/payload/bin WHERRY_ENGINE=$ENGINE
    # Emulation is slower than a real processor by up to this factor.
    export WHERRY_PATIENCE=10 RUST_BACKTRACE=0
    [ ! -e "$WHERRY_CACHE" ] || return 0
    mkdir -p "$WHERRY_CACHE/daemons"
    ln -s /payload/cache/daemons/* "$WHERRY_CACHE/daemons"
    cp -a /payload/cache/guests "$WHERRY_CACHE/guests"
}

tests() {
    local driver=$1
    shift
    echo "--- cgroup driver: $driver"
    cd /payload/repository || exit 1
    WHERRY_CGROUP_DRIVER=$driver /payload/tests --test-threads 2 \
        --skip containerd_1_7 --skip containerd_2 --skip docker_26 --skip docker_29 "$@" 2>&1 | cat
}

prepare
if [ $# -gt 0 ]; then
    tests "$@"
    exit
fi
# Tests that depend on the kernel and systemd run with both drivers; tests of the lives of
# processes, and of AppArmor, with one.
GROUPS_AND_LIVES=(limits:: pause:: update:: crash::containerd namespaces_and_cgroup ::stats_tell restart_runs_a_running
    in_the_hosts_namespaces cri::start:: oom_killed node::systemd)
LIVES=(apparmor:: unit::systemd api:: restart:: signals::containerd crash::docker)
mapfile -t filters < <(grep . /payload/filters)
code=0
if [ ${#filters[@]} -gt 0 ]; then
    tests cgroupfs "${filters[@]}" || code=1
    tests systemd "${filters[@]}" || code=1
else
    tests cgroupfs "${GROUPS_AND_LIVES[@]}" "${LIVES[@]}" || code=1
    tests systemd "${GROUPS_AND_LIVES[@]}" || code=1
fi
echo "wherry-vm: exit $code"
sync
