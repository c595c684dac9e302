#!/usr/bin/env bash
# Builds Helm 3 and 4 from their Go modules and prints where they are, a path a line.
#
#   test/setup/helm.sh
#
# Each is kept in $WHERRY_CACHE/tools under its version. A kept one costs no network.
set -euo pipefail

CACHE=${WHERRY_CACHE:-/var/cache/wherry}/tools
MODULES=(helm.sh/helm/v3/cmd/helm@v3.22.0 helm.sh/helm/v4/cmd/helm@v4.3.1)

command -v go > /dev/null || { echo "helm.sh: Go is missing: install golang-go 1.26 or newer" >&2; exit 1; }
mkdir -p "$CACHE"
# Two runs at once would build twice.
exec 9> "$CACHE/.helm.lock"
flock 9
for module in "${MODULES[@]}"; do
    path=$CACHE/helm-${module##*@v}
    if [ ! -x "$path" ]; then
        new=$(mktemp -d "$CACHE/.new.XXXXXX")
        trap 'rm -rf "$new"' EXIT
        GOBIN=$new CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$module" > "$new/log" 2>&1 \
            || { tail -n 20 "$new/log" >&2; echo "helm.sh: $module cannot be built" >&2; exit 1; }
        mv "$new/helm" "$path"
        rm -rf "$new"
    fi
    echo "$path"
done
