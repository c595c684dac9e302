#!/usr/bin/env bash
# Runs the tests inside of the virtual machine, once for each cgroup driver, and says how it went in the last
# line: `wherry-vm: exit CODE`.
#
#   /payload/inside.sh [DRIVER [FILTER…]]     by hand: with one driver, with the arguments of a test program
set -uo pipefail
# shellcheck disable=SC1091
. /payload/settings

# Where the tests find what they need, and where they write.
prepare() {
    export WHERRY_CACHE=/tmp/cache WHERRY_BIN_DIR=/payload/bin WHERRY_ENGINE=$ENGINE
    # Everything takes this many times as long as on a real processor.
    export WHERRY_PATIENCE=10 RUST_BACKTRACE=0
    [ ! -e "$WHERRY_CACHE" ] || return 0
    mkdir -p "$WHERRY_CACHE/images" "$WHERRY_CACHE/daemons"
    ln -s /payload/cache/daemons/* "$WHERRY_CACHE/daemons"
    cp -a /payload/cache/guests "$WHERRY_CACHE/guests"
}

tests() {
    local driver=$1
    shift
    echo "--- cgroup driver: $driver"
    cd /payload/repository || exit 1
    WHERRY_CGROUP_DRIVER=$driver /payload/tests --test-threads 2 \
        --skip containerd_1_7 --skip containerd_2:: --skip docker_26 "$@" 2>&1 | cat
}

prepare
if [ $# -gt 0 ]; then
    tests "$@"
    exit
fi
# What depends on the kernel's and systemd's doing, with both drivers; what only on the life of processes, or on AppArmor, with one.
GROUPS_AND_LIVES=(limits:: pause:: update:: crash::containerd namespaces_and_cgroup ::stats_tell restart_runs_a_running
    in_the_hosts_namespaces cri::start:: oom_killed node::systemd)
LIVES=(apparmor:: api:: restart:: signals::containerd crash::docker)
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
