#!/usr/bin/env bash
# Checks the dependencies of the project: allowed dependencies, licences, sources, and known
# advisories. `make check` calls this.
#
#   test/setup/advisories.sh          checks; advisories only if the database was fetched
#   test/setup/advisories.sh fetch    fetches or updates the database of advisories
#
# The database is RustSec's git repository, in $WHERRY_CACHE/advisory-db. If cargo-deny is missing,
# it is installed in $WHERRY_CACHE/tools, which takes some minutes once.
set -euo pipefail
cd "$(dirname "$0")/../.."

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
TOOLS=$CACHE/tools
VERSION=0.20.2
DATABASE=$CACHE/advisory-db
SOURCE=${WHERRY_ADVISORY_DB:-https://github.com/RustSec/advisory-db}
MANIFESTS=(Cargo.toml fuzz/Cargo.toml)

fetch() {
    if [ -d "$DATABASE" ]; then git -C "$DATABASE" pull --quiet --ff-only "$SOURCE" HEAD
    else git clone --quiet --depth 1 "$SOURCE" "$DATABASE"
    fi
}

# deny MANIFEST CONFIGURATION CHECK…: offline if all packages have been downloaded.
deny() {
    local manifest=$1 configuration=$2 offline=--offline
    shift 2
    cargo metadata --locked --offline --format-version 1 --manifest-path "$manifest" > /dev/null 2>&1 || offline=
    # shellcheck disable=SC2086
    "$TOOLS/bin/cargo-deny" --log-level error --manifest-path "$manifest" --locked $offline --all-features \
        --config "$configuration" check --hide-inclusion-graph "$@"
}

# A configuration whose folder of databases contains ours under the name that cargo-deny derives
# from the default address.
configuration() {
    local folder=$1
    mkdir "$folder/databases"
    ln -s "$DATABASE" "$folder/databases/advisory-db-3157b0e258782691"
    { cat deny.toml; printf '\n[advisories]\ndb-path = "%s"\n' "$folder/databases"; } > "$folder/deny.toml"
}

if [ "${1:-}" = fetch ]; then
    fetch
    exit
fi
if ! "$TOOLS/bin/cargo-deny" --version 2> /dev/null | grep -qF "$VERSION"; then
    cargo install cargo-deny --locked --version "$VERSION" --root "$TOOLS"
fi
# The fuzz targets may depend on every crate.
deny Cargo.toml "$PWD/deny.toml" bans licenses sources
deny fuzz/Cargo.toml "$PWD/deny.toml" licenses sources
if [ -d "$DATABASE" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    configuration "$work"
    for manifest in "${MANIFESTS[@]}"; do
        deny "$manifest" "$work/deny.toml" advisories
    done
else
    echo "advisories.sh: advisories were not checked: $DATABASE is missing; '$0 fetch' downloads it from $SOURCE"
fi
