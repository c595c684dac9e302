# Builds the daemons of daemons.sh that come from Go modules. The script that sources this has a
# function `fail`.
# shellcheck shell=bash

# Builds the daemon $1 from version $4 of the module $3, in the folder $2.
build_go() {
    local name=$1 root=$2 module=$3 version=$4 source program
    (
        PATH=$("$(dirname "${BASH_SOURCE[0]}")/go.sh"):$PATH
        export PATH CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false" GOTOOLCHAIN=local
        go mod download "$module@$version" || fail "$name: $module@$version cannot be downloaded"
        source=$(go env GOMODCACHE)/$module@$version
        mkdir "$root/bin"
        cd "$source"
        case $name in
            containerd-*)
                for program in containerd ctr containerd-shim-runc-v2; do
                    go build -tags "no_btrfs no_zfs" -ldflags "-s -w -X $module/version.Version=$version" \
                        -o "$root/bin/$program" "./cmd/$program"
                done
                ;;
            runc-*)
                CGO_ENABLED=1 go build -tags seccomp -ldflags "-s -w -X main.version=${version#v}" -o "$root/bin/runc" .
                ;;
            docker-*)
                # The engine's version is not its module's: v2.0.0-beta.24 is a beta of 29.0.0.
                for program in dockerd docker-proxy; do
                    go build -tags exclude_graphdriver_btrfs \
                        -ldflags "-s -w -X $module/dockerversion.Version=${name#docker-}.0.0-${version#v2.0.0-}" \
                        -o "$root/bin/$program" "./cmd/$program"
                done
                ;;
        esac
    )
    echo "$version" > "$root/version"
    case $name in
        docker-*) client_of "$root" docker-28 ;;
    esac
}

# Links the client and the helper programs of another Docker into the folder $1: the engine's module
# contains none.
client_of() {
    local root=$1 other=$2 program
    for program in docker docker-buildx docker-compose docker-init tini-static; do
        ln -s "../../$other/bin/$program" "$root/bin/$program"
    done
    # The client's plug-ins.
    ln -s "../$other/usr" "$root/usr"
}
