#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster from their Go modules: a control plane and a kubelet,
# crictl and critest.
#
#   test/k8s/build.sh        builds the missing programs below $WHERRY_K8S
#                            (/var/cache/wherry/kubernetes)
#
# It takes some ten minutes, once for each version.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
CACHE=${WHERRY_K8S:-/var/cache/wherry/kubernetes}
VERSION=$(sed -n 's/^\trequire k8s.io\/kubernetes \(v[0-9.]*\)$/\1/p; s/^require k8s.io\/kubernetes \(v[0-9.]*\)$/\1/p; s/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$here/programs/go.mod" | head -n 1)
CRI_TOOLS=v1.37.0

[ -n "$VERSION" ] || { echo "build.sh: programs/go.mod does not require k8s.io/kubernetes" >&2; exit 1; }
ready() { [ -x "$CACHE/$VERSION/bin/kubernetes" ] && [ -x "$CACHE/$VERSION/bin/crictl" ] && [ -x "$CACHE/$VERSION/bin/critest" ]; }
if ! ready; then
    PATH=$("$here/../setup/go.sh"):$PATH
    export PATH
fi
export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false" GOTOOLCHAIN=local

bin=$CACHE/$VERSION/bin
mkdir -p "$bin"
# Another process that builds the same is waited for.
exec 9> "$CACHE/lock"
flock 9

if [ ! -x "$bin/kubernetes" ]; then
    work=$(mktemp -d "$CACHE/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cp "$here"/programs/{go.mod,go.sum,main.go} "$work"
    minor=${VERSION#v1.}
    package=k8s.io/component-base/version
    flags="-s -w -X $package.gitVersion=$VERSION -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    flags="$flags -X $package.gitCommit=0 -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
    (cd "$work" && nice -n "${WHERRY_NICE:-0}" go build -ldflags "$flags" -o "$bin/kubernetes.new" .)
    mv "$bin/kubernetes.new" "$bin/kubernetes"
fi
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
    ln -sf kubernetes "$bin/$name"
done

if [ ! -x "$bin/crictl" ] || [ ! -x "$bin/critest" ]; then
    go mod download "sigs.k8s.io/cri-tools@$CRI_TOOLS"
    source=$(go env GOMODCACHE)/sigs.k8s.io/cri-tools@$CRI_TOOLS
    (cd "$source" && nice -n "${WHERRY_NICE:-0}" go build -ldflags "-s -w" -o "$bin/crictl" ./cmd/crictl)
    (cd "$source" && nice -n "${WHERRY_NICE:-0}" go test -c -ldflags "-s -w" -o "$bin/critest" ./cmd/critest)
fi
echo "$bin"
