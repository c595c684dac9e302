#!/usr/bin/env bash
# Finds WasmEdge's library and headers for a build, or fetches them. See docs/adding-an-engine.md.
#
#   shims/wasmedge/setup.sh check     succeeds if they are installed, else names the missing file
#   shims/wasmedge/setup.sh env       prints the build's variables, one KEY=VALUE per line
#   shims/wasmedge/setup.sh fetch     fetches Debian's packages into $WHERRY_CACHE/wasmedge
#
# Debian has a recent WasmEdge from testing on. On an older system the fetched library comes with
# the C library that it was built for, and with the dynamic loader of that; `wherry-wasmedge` then
# starts with this loader. The system's own packages are neither used nor changed.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
FETCHED=$CACHE/wasmedge
# Read by src/library.rs too.
NEEDED=$(cat "$(dirname "$0")/needed-version")
SUITE=unstable
PACKAGES="libwasmedge0 libwasmedge-dev"

fail() {
    echo "wasmedge: $*" >&2
    exit 1
}

# The version that the headers in folder $1 are of.
version() {
    sed -n 's/^#define WASMEDGE_VERSION "\([0-9.]*\).*/\1/p' "$1/wasmedge/version.h" 2> /dev/null
}

new_enough() {
    [ -n "$1" ] && [ "$(printf '%s\n' "$NEEDED" "$1" | sort -V | head -n 1)" = "$NEEDED" ]
}

# Prints the folders of headers and library, if there is a pair that is new enough.
find_library() {
    local include lib pair
    for pair in "${WASMEDGE_DIR:+$WASMEDGE_DIR/include $WASMEDGE_DIR/lib}" \
        "/usr/local/include /usr/local/lib" "/usr/include /usr/lib/$(uname -m)-linux-gnu" "/usr/include /usr/lib64" \
        "$FETCHED/include $FETCHED/link"; do
        read -r include lib <<< "$pair"
        if [ -e "${lib:-/nonexistent}/libwasmedge.so" ] && new_enough "$(version "$include")"; then
            echo "$include $lib"
            return
        fi
    done
    return 1
}

check() {
    find_library > /dev/null || fail "WasmEdge $NEEDED or newer is not installed: it is libwasmedge-dev of Debian testing" \
        "and newer, or run '$0 fetch'"
}

environment() {
    local include lib
    check
    read -r include lib <<< "$(find_library)"
    echo "WASMEDGE_INCLUDE_DIR=$include"
    echo "WASMEDGE_LIB_DIR=$lib"
    [ "$lib" != "$FETCHED/link" ] || echo "WHERRY_WASMEDGE_LOADER=$(echo "$FETCHED"/lib/ld-linux-*.so.*)"
}

fetch() {
    local new deb
    ! find_library > /dev/null || return 0
    APT_HOME=$CACHE/daemons/.apt
    # shellcheck source=test/setup/suite.sh
    . "$(dirname "$0")/../../test/setup/suite.sh"
    mkdir -p "$CACHE/daemons"
    # The lists are those of the daemons' packages too.
    exec 9> "$CACHE/daemons/.lock"
    flock 9
    ! find_library > /dev/null || return 0
    rm -rf "$CACHE"/.wasmedge.*
    new=$(mktemp -d "$CACHE/.wasmedge.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    mkdir -p "$new/debs/partial"
    read_lists "$SUITE"
    # To apt nothing is installed in its folder, so it takes all dependencies, including the C
    # library.
    # shellcheck disable=SC2086
    suite_apt "$SUITE" -o Dir::Cache::archives="$new/debs" -o APT::Install-Recommends=0 \
        --download-only -y install $PACKAGES \
        || fail "not all that '$PACKAGES' need can be had from Debian's suite '$SUITE'"
    for deb in "$new"/debs/*.deb; do
        dpkg -x "$deb" "$new/root" || fail "$(basename "$deb") cannot be unpacked"
    done
    # The loader searches one folder, and the linker must see nothing of another C library.
    mkdir "$new/lib" "$new/link" "$new/include"
    find "$new/root" \( -name '*.so' -o -name '*.so.*' \) -path '*lib*' -not -path '*/gconv/*' \
        -exec cp -a -n -t "$new/lib" {} + || true
    rm -f "$new"/lib/libwasmedge.so
    ln -s "../lib/libwasmedge.so.0" "$new/link/libwasmedge.so"
    mv "$new/root/usr/include/wasmedge" "$new/include/"
    rm -rf "$new/root" "$new/debs"
    new_enough "$(version "$new/include")" || fail "Debian's suite '$SUITE' has $(version "$new/include"), and $NEEDED is needed"
    "$(echo "$new"/lib/ld-linux-*.so.*)" --library-path "$new/lib" --list "$new/lib/libwasmedge.so.0" > /dev/null \
        || fail "the fetched library does not run on this machine"
    chmod 755 "$new"
    rm -rf "$FETCHED"
    mv "$new" "$FETCHED"
    trap - EXIT
    echo "wasmedge: $(version "$FETCHED/include") is ready in $FETCHED"
}

case ${1:-} in
    check) check ;;
    env) environment ;;
    fetch) fetch ;;
    *) fail "usage: setup.sh check|env|fetch" ;;
esac
