#!/usr/bin/env bash
# Boots the virtual machine and runs the tests of cgroups and of containers' lives in it: `make
# test-vm` calls this after the build.
#
#   test/vm/run.sh BIN-DIR [FILTER…]           the folder of the executables; libtest's filters
#   WHERRY_VM_SHELL=1 test/vm/run.sh BIN-DIR   a shell, for /payload/inside.sh; poweroff ends it
#
# Its processors are emulated, so that it runs on every machine, but slowly. It has no network. The
# files under test are on its second disk, and the output of the tests is on its second serial port.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
REPOSITORY=$(cd "$HERE/../.." && pwd)
CACHE=${WHERRY_CACHE:-/var/cache/wherry}
ENGINE=${WHERRY_ENGINE:-wasmtime}
# Seconds after which it is considered hung. Far above the time that it takes on a loaded machine.
PATIENCE=${WHERRY_VM_DEADLINE:-2400}
# Debian 12's own containerd, which is this system's, and the newest Docker with its containerd.
DAEMONS=(containerd-1.6 runc busybox docker-28 containerd-2 cni)

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || fail "usage: run.sh BIN-DIR [FILTER…]"
bin=$1
shift

# Builds the program of the end-to-end tests, and prints its path.
tests() {
    "${CARGO:-cargo}" test --release --locked -p wherry-e2e --no-run --message-format json \
        --manifest-path "$REPOSITORY/Cargo.toml" \
        | sed -n 's/.*"name":"e2e".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# Builds the disk with the files under test, and the files of the repository that the tests read.
payload() {
    local root=$work/payload daemon
    # Hard links if possible, else copies.
    take() { cp -al "$@" 2> /dev/null || cp -a "$@"; }
    mkdir -p "$root/bin" "$root/cache/daemons" "$root/cache/guests" "$root/repository"
    cp "$bin/containerd-shim-$ENGINE-v1" "$bin/containerd-shim-${ENGINE}d-v1" "$bin/wherry-$ENGINE" "$bin/wherry-$ENGINE-host" "$bin/wherry-node" "$root/bin"
    cp "$tests" "$root/tests"
    cp "$HERE/inside.sh" "$root"
    echo "ENGINE=$ENGINE" > "$root/settings"
    printf '%s\n' "$@" > "$root/filters"
    for daemon in "${DAEMONS[@]}"; do
        take "$CACHE/daemons/$daemon" "$root/cache/daemons/"
    done
    rm -rf "$root"/cache/daemons/docker-*/usr/libexec/docker/cli-plugins
    cp -a "$("$bin/guests")" "$root/cache/guests/"
    (cd "$REPOSITORY" && cp -a --parents packaging test/guests test/setup crates/engine/src/conformance/wasi.wit "$root/repository")
    mke2fs -q -t ext4 -O ^has_journal -d "$root" "$work/payload.img" 2G
}

# Replaces this process by the machine.
boot() {
    # The disks are not changed: writes go to a temporary file.
    exec qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m "${WHERRY_VM_MEMORY:-3072}" \
        -nodefaults -display none -no-reboot -monitor none "$@" \
        -drive "file=$image/disk.img,format=raw,if=virtio,snapshot=on" \
        -drive "file=$work/payload.img,format=raw,if=virtio,snapshot=on" \
        -kernel "$image/vmlinuz" -initrd "$image/initrd.img" \
        -append "root=/dev/vda rw console=ttyS0 systemd.unified_cgroup_hierarchy=1 ${WHERRY_VM_SHELL:+wherry.shell}"
}

tests=$(tests)
[ -x "$tests" ] || fail "the end-to-end tests cannot be built"
image=$("$HERE/image.sh")
mkdir -p "$CACHE/vm"
work=$(mktemp -d "$CACHE/vm/.run.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
payload "$@"
# The folder in which Debian's qemu keeps the writes to snapshots.
export TMPDIR=$work

if [ -n "${WHERRY_VM_SHELL:-}" ]; then
    (boot -serial stdio -serial null)
    exit
fi

status=0
# The exit code of qemu does not depend on the tests.
boot -serial "file:$work/console" -serial stdio < /dev/null > >(tee "$work/output") &
machine=$!
(
    sleep "$PATIENCE" &
    trap 'kill $!' TERM
    wait $!
    kill "$machine"
) &
clock=$!
wait "$machine" || status=$?
kill "$clock" 2> /dev/null || true
code=$(tr -d '\r' < "$work/output" | sed -n 's/^wherry-vm: exit \([0-9]*\)$/\1/p' | tail -n 1)
if [ -z "$code" ]; then
    echo "--- the machine's console, its end:" >&2
    tail -n 60 "$work/console" >&2
    fail "the machine ended, or was ended after $PATIENCE s, without a result (qemu: $status)"
fi
exit "$code"
