#!/usr/bin/env bash
# Fetches the daemons of the tests from Debian's packages into a cache folder.
#
#   test/setup/daemons.sh [NAME…]     without a name: all of them
#
# Each is $WHERRY_CACHE/daemons/NAME: the unpacked packages, with a folder `bin` that contains a
# link to each executable. The system's packages are neither used nor changed. Daemons that were
# fetched before need no network; an interrupted fetch leaves nothing behind and is repeated.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
DAEMONS=$CACHE/daemons
APT_HOME=$DAEMONS/.apt
ALL=(runc busybox containerd-1.6 containerd-1.7 containerd-2 docker-26 docker-28 etcd cni)

# One line per daemon: the suite of Debian it comes from, and its packages.
recipe() {
    case $1 in
        runc) echo "bookworm runc" ;;
        busybox) echo "bookworm busybox-static" ;;
        containerd-1.6) echo "bookworm containerd" ;;
        containerd-1.7) echo "trixie containerd" ;;
        containerd-2) echo "unstable containerd" ;;
        docker-26) echo "trixie docker.io docker-cli docker-compose docker-buildx tini" ;;
        docker-28) echo "unstable docker.io docker-cli docker-compose docker-buildx tini-static" ;;
        etcd) echo "unstable etcd-server" ;;
        cni) echo "unstable containernetworking-plugins" ;;
        *) return 1 ;;
    esac
}

# The executable that proves that a daemon runs on this host, and the beginning of its version.
proof() {
    case $1 in
        runc) echo "runc 1." ;;
        busybox) echo "busybox 1." ;;
        containerd-*) echo "containerd ${1#containerd-}" ;;
        docker-*) echo "dockerd ${1#docker-}" ;;
        etcd) echo "etcd 3." ;;
        cni) echo "bridge CNI bridge plugin" ;;
    esac
}

fail() {
    echo "daemons.sh: $*" >&2
    exit 1
}

# Whether the folder $2 contains the daemon $1, and it runs here.
works() {
    local name=$1 folder=$2 exe want said
    read -r exe want <<< "$(proof "$name")"
    [ -x "$folder/bin/$exe" ] || return 1
    case $exe in
        busybox) said=$("$folder/bin/$exe" 2>&1 | head -n 1) ;;
        *) said=$("$folder/bin/$exe" --version 2>&1) || return 1 ;;
    esac
    grep -qE "(^| |~|v)${want//./\\.}" <<< "$said"
}

. "$(dirname "$0")/suite.sh"

fetch() {
    local name=$1 suite packages new
    read -r suite packages <<< "$(recipe "$name")"
    read_lists "$suite"
    new=$(mktemp -d "$DAEMONS/.new.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    mkdir "$new/debs" "$new/root"
    # shellcheck disable=SC2086
    (cd "$new/debs" && suite_apt "$suite" download $packages) \
        || fail "$name: not all of '$packages' can be downloaded from Debian's suite '$suite'"
    for deb in "$new"/debs/*.deb; do
        dpkg -x "$deb" "$new/root" || fail "$name: $(basename "$deb") cannot be unpacked"
    done
    # busybox-static has its executable in /bin, the place of our folder of links.
    [ ! -d "$new/root/bin" ] || mv "$new/root/bin" "$new/root/slash-bin"
    mkdir "$new/root/bin"
    (cd "$new/root" && find usr/bin usr/sbin usr/libexec usr/lib/cni slash-bin -type f -perm /111 2> /dev/null || true) \
        | while read -r file; do ln -sf "../$file" "$new/root/bin/$(basename "$file")"; done
    # The name under which dockerd finds the helper of `docker run --init`.
    [ ! -e "$new/root/bin/tini-static" ] || ln -s tini-static "$new/root/bin/docker-init"
    rm -rf "$new/root/usr/share"
    works "$name" "$new/root" \
        || fail "$name: the fetched daemon does not run on this host, or has another version:" \
            "$("$new/root/bin/$(proof "$name" | cut -d' ' -f1)" --version 2>&1 | head -n 3 || true)"
    rm -rf "${DAEMONS:?}/$name"
    mv "$new/root" "$DAEMONS/$name"
    rm -rf "$new"
    trap - EXIT
    echo "daemons.sh: $name is ready"
}

main() {
    local names=("$@") name
    [ $# -gt 0 ] || names=("${ALL[@]}")
    for name in "${names[@]}"; do
        recipe "$name" > /dev/null || fail "'$name' is none of: ${ALL[*]}"
    done
    mkdir -p "$DAEMONS"
    # Two concurrent runs would fetch everything twice.
    exec 9> "$DAEMONS/.lock"
    flock 9
    rm -rf "$DAEMONS"/.new.*
    for name in "${names[@]}"; do
        works "$name" "$DAEMONS/$name" || fetch "$name"
    done
}

main "$@"
