#!/usr/bin/env bash
# Tests the chart with Helm 3 and 4: `make test-chart` calls this.
#
#   test/chart/run.sh           compares
#   test/chart/run.sh update    writes the golden files of what the chart renders now
#
# Each file in cases/ is a set of values; its first line may have options of `helm template`, after
# `# options:`. The output must be golden/CASE.yaml, the same with both Helms, and must decode
# strictly as the API's own types (validate/, which evaluates the admission policy too). Values that
# the schema must refuse are in `refused` below.
set -euo pipefail
cd "$(dirname "$0")"
CHART=../../charts/wherry
CACHE=${WHERRY_CACHE:-/var/cache/wherry}/tools
passed=0 failed=0

mapfile -t helms < <(../setup/helm.sh)
[ ${#helms[@]} = 2 ] || { echo "run.sh: helm.sh gave ${#helms[@]} Helms, expected 2" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check NAME COMMAND…
check() {
    local name=$1
    shift
    if "$@" > "$work/output" 2>&1; then
        passed=$((passed + 1))
        echo "test chart::$name ... ok"
    else
        failed=$((failed + 1))
        echo "test chart::$name ... FAILED"
        head -n 60 "$work/output"
    fi
}

render() { # HELM CASE
    local options
    options=$(sed -n '1s/^# options: //p' "cases/$2.yaml")
    # The version is fixed: a Helm that was built without its Makefile knows none. The two differ in
    # empty lines.
    # shellcheck disable=SC2086
    "$1" template wherry $CHART --namespace wherry-system --kube-version 1.34.0 --values "cases/$2.yaml" $options \
        | grep -v '^$'
}

renders() { # HELM CASE
    render "$1" "$2" > "$work/$2.yaml" && diff -u "golden/$2.yaml" "$work/$2.yaml"
}

lints() { "$1" lint --strict --quiet --kube-version 1.34.0 $CHART --values cases/usual.yaml; }

# Values that must be refused, and a word of the sentence that says so.
refused() { # HELM WORD SET
    if "$1" template wherry $CHART --kube-version 1.34.0 --values cases/usual.yaml --set "$3" > "$work/text" 2>&1; then
        echo "$3 was taken"
        return 1
    fi
    grep -q -- "$2" "$work/text" || { cat "$work/text"; return 1; }
}

validates() { # CASE…
    local binary
    binary=$CACHE/validate-chart-$(cat validate/go.* validate/*.go | sha256sum | cut -c1-12)
    [ -x "$binary" ] || (cd validate && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$binary" .) || return 1
    "$binary" "$@"
}

mapfile -t cases < <(cd cases && printf '%s\n' *.yaml | sed 's/\.yaml$//')
if [ "${1:-}" = update ]; then
    for case in "${cases[@]}"; do render "${helms[0]}" "$case" > "golden/$case.yaml"; done
fi
for helm in "${helms[@]}"; do
    version=$(basename "$helm")
    check "$version::it_lints" lints "$helm"
    for case in "${cases[@]}"; do check "$version::renders_$case" renders "$helm" "$case"; done
    check "$version::an_image_is_asked_for" refused "$helm" 'make image' image.repository=
    check "$version::a_mode_is_one_of_two" refused "$helm" mode mode=remove
    check "$version::a_misspelt_value_is_refused" refused "$helm" tolerance tolerance=x
    check "$version::a_quantity_is_a_quantity" refused "$helm" memory engines.wamr.overhead.memory=lots
    check "$version::a_path_is_absolute" refused "$helm" binDir containerd.binDir=opt/bin
    check "$version::a_watch_needs_an_engine" refused "$helm" engines 'watch.enabled=true,watch.engines=null'
    check "$version::a_mirror_needs_a_registry" refused "$helm" registries mirror.enabled=true
    check "$version::a_mirror_is_on_loopback" refused "$helm" address mirror.address=0.0.0.0:5123
    check "$version::one_engine_is_needed" refused "$helm" 'no engine is enabled' \
        'engines.wasmtime.enabled=false,engines.wamr.enabled=false'
done
check the_api_takes_what_is_rendered validates "${cases[@]/#/golden/}"
# In the form that CI counts.
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored"
[ $failed = 0 ]
