#!/usr/bin/env bash
# Runs the example guest under a private containerd: `make demo` calls this after the build.
#
#   test/setup/demo.sh BIN-DIR     the folder of the built executables
#
# The containerd has its root, state and socket in a temporary folder, and is ended and removed at
# the end.
set -euo pipefail

BIN=${1:?usage: demo.sh BIN-DIR}
ENGINE=${WHERRY_ENGINE:-wasmtime}
RUNTIME=io.containerd.$ENGINE.v1
IMAGE=docker.io/wherry/hello:latest
REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)

fail() {
    echo "demo.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "containers need root: run 'make demo' as root"
[ -x "$BIN/containerd-shim-$ENGINE-v1" ] || fail "$BIN/containerd-shim-$ENGINE-v1 is missing: run 'make build'"

work=$(mktemp -d /tmp/wherry-demo.XXXXXX)
daemon=
finish() {
    if [ -n "$daemon" ]; then
        # A failed container may have left something.
        ctr tasks rm --force demo > /dev/null 2>&1 || true
        ctr containers rm demo > /dev/null 2>&1 || true
        # Only the process that this script started.
        kill "$daemon" 2> /dev/null || true
        wait "$daemon" 2> /dev/null || true
    fi
    rm -rf --one-file-system "$work"
}
trap finish EXIT

show() {
    echo "\$ $*"
}

cat > "$work/config.toml" << TOML
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$work/containerd.sock"
[ttrpc]
address = "$work/containerd.sock.ttrpc"
TOML

PATH=$BIN:$PATH containerd --config "$work/config.toml" < /dev/null > "$work/containerd.log" 2>&1 &
daemon=$!
export CONTAINERD_ADDRESS=$work/containerd.sock
for _ in $(seq 300); do
    ctr version > /dev/null 2>&1 && break
    kill -0 "$daemon" 2> /dev/null || fail "containerd ended: $(tail -n 3 "$work/containerd.log")"
    sleep 0.1
done
ctr version > /dev/null || fail "containerd does not answer: $(tail -n 3 "$work/containerd.log")"

"$BIN/pack-image" "$REPOSITORY/examples/hello.wat" /hello.wat "$IMAGE" "$work/hello.tar"
show "ctr images import hello.tar"
ctr images import "$work/hello.tar"
show "ctr run --rm --runtime $RUNTIME $IMAGE demo"
# A container that hangs must not hang the demo.
timeout 60 ctr run --rm --runtime "$RUNTIME" "$IMAGE" demo < /dev/null \
    || fail "the container failed; the end of containerd's log:$(echo; tail -n 8 "$work/containerd.log")"
