#!/usr/bin/env bash
# Fetches the daemons of the tests into a cache folder: from Debian's packages, or from Go modules
# where Debian has no package of that version.
#
#   test/setup/daemons.sh [NAME…]     without a name: all of them
#
# Each is $WHERRY_CACHE/daemons/NAME, with a folder `bin` that contains the executables, or links to
# those of the unpacked packages. The system's packages are neither used nor changed. Daemons that
# were fetched before need no network; an interrupted fetch leaves nothing behind and is repeated.
# The build of a Go module takes a few minutes, once for each version.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
DAEMONS=$CACHE/daemons
APT_HOME=$DAEMONS/.apt
ALL=(runc runc-1.3 busybox containerd-1.6 containerd-1.7 containerd-2 containerd-2.4 docker-26 docker-28 docker-29 etcd cni registry)

# One line per daemon: the suite of Debian it comes from, and its packages; or `go`, its module and
# the module's version.
recipe() {
    case $1 in
        runc) echo "bookworm runc" ;;
        runc-1.3) echo "go github.com/opencontainers/runc v1.3.6" ;;
        busybox) echo "bookworm busybox-static" ;;
        containerd-1.6) echo "bookworm containerd" ;;
        containerd-1.7) echo "trixie containerd" ;;
        containerd-2) echo "unstable containerd" ;;
        containerd-2.4) echo "go github.com/containerd/containerd/v2 v2.4.2" ;;
        docker-26) echo "trixie docker.io docker-cli docker-compose docker-buildx tini" ;;
        docker-28) echo "unstable docker.io docker-cli docker-compose docker-buildx tini-static" ;;
        docker-29) echo "go github.com/moby/moby/v2 v2.0.0-beta.24" ;;
        etcd) echo "unstable etcd-server" ;;
        cni) echo "unstable containernetworking-plugins" ;;
        registry) echo "bookworm docker-registry" ;;
        *) return 1 ;;
    esac
}

# The executable that proves that a daemon runs on this host, and the beginning of its version.
proof() {
    case $1 in
        runc) echo "runc 1." ;;
        runc-*) echo "runc ${1#runc-}" ;;
        busybox) echo "busybox 1." ;;
        containerd-*) echo "containerd ${1#containerd-}" ;;
        docker-*) echo "dockerd ${1#docker-}" ;;
        etcd) echo "etcd 3." ;;
        cni) echo "bridge CNI bridge plugin" ;;
        registry) echo "docker-registry 2." ;;
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
    # The module's exact version is the last word of its recipe.
    case $(recipe "$name") in
        go\ *) [[ $(recipe "$name") == *" $(cat "$folder/version" 2> /dev/null)" ]] || return 1 ;;
    esac
    case $exe in
        busybox) said=$("$folder/bin/$exe" 2>&1 | head -n 1) ;;
        *) said=$("$folder/bin/$exe" --version 2>&1) || return 1 ;;
    esac
    grep -qE "(^| |~|v)${want//./\\.}" <<< "$said"
}

. "$(dirname "$0")/suite.sh"
. "$(dirname "$0")/go-daemons.sh"

# Fetches the daemon $1 into the folder $3 from packages of the suite $2 of Debian. $4 is a folder
# for the packages.
unpack() {
    local name=$1 suite=$2 root=$3 debs=$4 deb
    shift 4
    read_lists "$suite"
    (cd "$debs" && suite_apt "$suite" download "$@") \
        || fail "$name: not all of '$*' can be downloaded from Debian's suite '$suite'"
    for deb in "$debs"/*.deb; do
        dpkg -x "$deb" "$root" || fail "$name: $(basename "$deb") cannot be unpacked"
    done
    # busybox-static has its executable in /bin, the place of our folder of links.
    [ ! -d "$root/bin" ] || mv "$root/bin" "$root/slash-bin"
    mkdir "$root/bin"
    (cd "$root" && find usr/bin usr/sbin usr/libexec usr/lib/cni slash-bin -type f -perm /111 2> /dev/null || true) \
        | while read -r file; do ln -sf "../$file" "$root/bin/$(basename "$file")"; done
    # The name under which dockerd finds the helper of `docker run --init`.
    [ ! -e "$root/bin/tini-static" ] || ln -s tini-static "$root/bin/docker-init"
    rm -rf "$root/usr/share"
}

fetch() {
    local name=$1 origin words new
    read -r origin words <<< "$(recipe "$name")"
    new=$(mktemp -d "$DAEMONS/.new.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    mkdir "$new/debs" "$new/root"
    # shellcheck disable=SC2086
    case $origin in
        go) build_go "$name" "$new/root" $words ;;
        *) unpack "$name" "$origin" "$new/root" "$new/debs" $words ;;
    esac
    works "$name" "$new/root" \
        || fail "$name: the fetched daemon does not run on this host, or has another version:" \
            "$("$new/root/bin/$(proof "$name" | cut -d' ' -f1)" --version 2>&1 | head -n 3 || true)"
    rm -rf "${DAEMONS:?}/$name"
    mv "$new/root" "$DAEMONS/$name"
    rm -rf "$new"
    trap - EXIT
    echo "daemons.sh: $name is ready"
}

# Fetches the daemon $1 unless it is in the cache.
ready() {
    works "$1" "$DAEMONS/$1" || fetch "$1"
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
        # Its client is that of the other one.
        [ "$name" != docker-29 ] || ready docker-28
        ready "$name"
    done
}

main "$@"
