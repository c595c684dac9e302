#!/usr/bin/env bash
# Checks the rules that the compiler does not: the direction of dependencies, and the places of
# `unsafe`. ARCHITECTURE.md has the reasons.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
complain() {
    echo "structure.sh: $*" >&2
    bad=1
}

# The crates that each crate may use. ARCHITECTURE.md has the same as a drawing.
declare -A MAY=(
    [engine]="" [sys]="" [protocol]="" [testing]="" [libcgroups]="" [regex]="" [node]="mirror" [mirror]="oci"
    [any]="shim" [layer]="" [manual]="" [containerd]="" [oci]="engine image layer" [tool]="image manual oci"
    [bundle]="sys" [cgroup]="sys" [image]="engine sys"
    [host]="engine protocol bundle cgroup image sys"
    [compiler]="engine protocol image sys"
    [supervisor]="engine protocol bundle cgroup image sys"
    [container]="supervisor protocol bundle cgroup sys"
    [task]="container supervisor protocol bundle cgroup sys"
    [shim]="task container supervisor protocol bundle cgroup image sys"
    [manager]="shim task supervisor sys"
    [cli]="engine host compiler supervisor image manual protocol sys containerd oci"
)
for manifest in crates/*/Cargo.toml; do
    crate=$(basename "$(dirname "$manifest")")
    [ -n "${MAY[$crate]+known}" ] || { complain "crates/$crate is not in the list of who may use whom"; continue; }
    # Only [dependencies] and [build-dependencies] count: tests may use every crate.
    used=$(awk '/^\[/ { section = $0 } section ~ /^\[(build-)?dependencies/ && match($0, /wherry-[a-z]+/) {
        print substr($0, RSTART + 7, RLENGTH - 7) }' "$manifest" | sort -u)
    for other in $used; do
        [ "$other" != "$crate" ] || continue
        case " ${MAY[$crate]} " in *" $other "*) ;; *) complain "crates/$crate may not depend on wherry-$other" ;; esac
    done
done

uses() { # MANIFEST PATTERN
    awk -v pattern="^($2)[ .=]" '/^\[/ { section = $0; if (section ~ "^\\[(build-)?dependencies\\.(" "'"$2"'" ")\\]") found = 1 }
        section ~ /^\[(build-)?dependencies\]/ && $0 ~ pattern { found = 1 } END { exit !found }' "$1"
}

for manifest in crates/*/Cargo.toml; do
    crate=$(basename "$(dirname "$manifest")")
    # An engine's library is a dependency of its folder under shims/ alone.
    if uses "$manifest" 'wasmtime|wasmtime-wasi|wasmedge-sdk|wasmedge-sys|wasmer|wasmer-wasix|wamrx-sys'; then
        complain "crates/$crate depends on an engine's library"
    fi
    case $crate in
        task | shim | testing) ;;
        *) ! uses "$manifest" 'ttrpc|protobuf|containerd-shim-protos' || complain "crates/$crate knows the wire protocol" ;;
    esac
    case $crate in
        host | libcgroups | testing) ;;
        *) ! uses "$manifest" 'libcontainer|libcgroups' || complain "crates/$crate uses libcontainer" ;;
    esac
    case $crate in
        container | task | shim | manager | node | oci | containerd | mirror) ;;
        *) ! uses "$manifest" tokio || complain "crates/$crate uses a runtime" ;;
    esac
done

# libcontainer is to be linked to ours, not to the package that ours stands upon.
ours=$(sed -n 's/^version = "\(.*\)"/\1/p' crates/libcgroups/Cargo.toml)
awk -v ours="\"libcgroups $ours\"" '/^name = / { name = $3 } name == "\"libcontainer\"" && index($0, ours) { found = 1 }
    END { exit !found }' Cargo.lock || complain "Cargo.lock: libcontainer does not use crates/libcgroups $ours"

! grep -q '^name = "regex-automata"' Cargo.lock || complain "Cargo.lock: a package does not use crates/regex"

# The whole tree of a shim has no libcontainer and no client of registries, not only its own
# dependencies. Of the workspace: the tree of one package cannot be resolved with crates/libcgroups.
for unwanted in libcontainer oci-client; do
    users=$(cargo tree --locked --offline --edges normal --workspace --invert "$unwanted")
    for crate in supervisor container task shim manager; do
        ! grep -q "wherry-$crate v" <<< "$users" || complain "crates/$crate depends on $unwanted through another crate"
    done
done
# A container's own daemon does not carry a manager's parts.
! grep -qE 'wherry-manager|prometheus-client' <<< "$(cargo tree --locked --offline --edges normal -p wherry-task)" \
    || complain "crates/task depends on the parts of a manager"

# The journey in ARCHITECTURE.md names functions that exist.
journey=$(sed -n 's/^|[^|]*| `\([^`]*\.rs\)` | `\([a-z_]*\)` |.*/\1 \2/p' ARCHITECTURE.md)
[ "$(wc -l <<< "$journey")" -gt 20 ] || complain "ARCHITECTURE.md: the journey of ctr run is missing"
while read -r file function; do
    grep -qE "fn $function\b" "$file" 2> /dev/null || complain "ARCHITECTURE.md: $file has no function $function"
done <<< "$journey"

# Source files that documents name exist, by the end of their path.
sources=$(git ls-files '*.rs')
for file in $(grep -hoE '`[A-Za-z0-9_/.-]+\.rs`' -- *.md docs/*.md docs/design/*.md | tr -d '`' | sort -u); do
    grep -qE "(^|/)${file//./\\.}\$" <<< "$sources" || complain "documents name $file, which does not exist"
done

# `unsafe` is in these crates and, where an engine's interface demands it, in shims/: elsewhere the
# lint forbids it.
for manifest in crates/*/Cargo.toml test/{bench,e2e,k8s}/Cargo.toml; do
    folder=$(dirname "$manifest")
    case $folder in crates/sys | crates/protocol | crates/host | crates/compiler | crates/container) continue ;; esac
    if ! grep -qE '^\[lints\]' "$manifest" && ! grep -qE '^unsafe_code *= *"forbid"' "$manifest"; then
        complain "$folder neither takes the workspace's lints nor forbids unsafe_code"
    fi
done

exit $bad
