#!/usr/bin/env bash
# Prints the address of the Debian mirror in this machine's apt configuration. Ubuntu has none: set
# WHERRY_DEBIAN_MIRROR there.
set -euo pipefail

if [ -n "${WHERRY_DEBIAN_MIRROR:-}" ]; then
    echo "$WHERRY_DEBIAN_MIRROR"
    exit
fi
uri=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(SITE) $(REPO_URI)' 'Created-By: Packages' \
    | awk '$1 == "Debian" && $2 == "main" && $4 !~ /security/ { print $4; exit }')
[ -n "$uri" ] || {
    echo "mirror.sh: this machine's apt has no Debian mirror: run 'apt-get update' once," \
        "or set WHERRY_DEBIAN_MIRROR to the address of one" >&2
    exit 1
}
echo "$uri"
