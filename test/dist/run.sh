#!/usr/bin/env bash
# Tests the archive that `make dist` makes: `make test-dist` calls this.
#
#   test/dist/run.sh ARCHIVE
#
# The executables must run on other systems than the one that built them: each is run in the root
# filesystems of Debian 11 and of Debian unstable, made by mmdebstrap once and kept in the cache,
# and in an empty one, which has no library at all. A statically linked program reads /dev/urandom.
set -euo pipefail
cd "$(dirname "$0")"
archive=$1
CACHE=${WHERRY_CACHE:-/var/cache/wherry}/roots
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check NAME COMMAND…
check() {
    local name=$1
    shift
    if "$@" > "$work/output" 2>&1; then
        passed=$((passed + 1))
        echo "test dist::$name ... ok"
    else
        failed=$((failed + 1))
        echo "test dist::$name ... FAILED"
        head -n 40 "$work/output"
    fi
}

# The root filesystem of a Debian suite, in the cache.
root_of() {
    local root=$CACHE/$1
    if [ ! -e "$root" ]; then
        mkdir -p "$CACHE"
        rm -rf "$root.new"
        # The lists of a frozen mirror may have expired; no result leaves the test.
        mmdebstrap --quiet --variant=essential --aptopt='Acquire::Check-Valid-Until "false"' \
            "$1" "$root.new" "$(../setup/mirror.sh)" || return 1
        mv "$root.new" "$root"
    fi
    echo "$root"
}

# in_root ROOT COMMAND…: with the unpacked archive at /wherry, in a new mount namespace.
in_root() {
    local root=$1
    shift
    # shellcheck disable=SC2016
    ROOT=$root BIN=$work/archive unshare --mount bash -ec '
        mkdir -p "$ROOT/wherry" "$ROOT/proc" "$ROOT/tmp"
        mount --bind "$BIN" "$ROOT/wherry"
        mkdir -p "$ROOT/dev"
        mount --bind /dev "$ROOT/dev"
        mount -t proc proc "$ROOT/proc"
        mount -t tmpfs tmpfs "$ROOT/tmp"
        exec chroot "$ROOT" "$@"' bash "$@"
}

says() { # TEXT COMMAND…
    local text=$1
    shift
    "$@" | tee /dev/stderr | grep -qF -- "$text"
}

checksums_match() {
    (cd "$work/archive" && sha256sum --quiet --check SHA256SUMS)
    (cd "$(dirname "$archive")" && sha256sum --quiet --check "$(basename "$archive").sha256")
}

bill_names_the_engines() {
    python3 - "$work/archive/sbom.cdx.json" << 'END'
import json, sys
bill = json.load(open(sys.argv[1]))
names = {component["name"] for component in bill["components"]}
assert bill["bomFormat"] == "CycloneDX" and {"wasmtime", "libcontainer", "ttrpc"} <= names, names
END
}

# The shim asks its engine host for the engine's version.
knows_its_engine() { # ROOT ENGINE
    says "Engine:" in_root "$1" "/wherry/bin/containerd-shim-$2-v1" -v | (! grep unknown)
}

# Compiles a module where the engine compiles, and runs it.
runs_a_guest() { # ROOT ENGINE
    says "Hello from WebAssembly" in_root "$1" /wherry/bin/"wherry-$2" run /wherry/hello.wat
}

mkdir "$work/archive" "$work/empty"
tar -C "$work/archive" --strip-components 1 --zstd -xf "$archive"
cp ../../examples/hello.wat "$work/archive"
check the_checksums_match checksums_match
check the_bill_of_materials_names_the_engines bill_names_the_engines
for suite in bullseye sid empty; do
    if [ $suite = empty ]; then root=$work/empty; else root=$(root_of $suite); fi
    check "$suite::the_installer_runs" says "Usage: wherry-node" in_root "$root" /wherry/bin/wherry-node --help
    for shim in "$work"/archive/bin/containerd-shim-*-v1; do
        engine=${shim##*/containerd-shim-}
        engine=${engine%-v1}
        check "$suite::$engine::the_shim_knows_the_version_of_its_engine" knows_its_engine "$root" "$engine"
        # The shim of the shared mode has its engine's host and compiler.
        [ -e "$work/archive/bin/wherry-$engine" ] || continue
        check "$suite::$engine::a_guest_runs" runs_a_guest "$root" "$engine"
    done
done
[ "$failed" = 0 ] && result=ok || result=FAILED
echo "test result: $result. $passed passed; $failed failed; 0 ignored"
[ "$failed" = 0 ]
