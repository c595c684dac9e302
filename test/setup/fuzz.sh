#!/usr/bin/env bash
# Runs each fuzz target for some time: `make fuzz` calls this. Fails if one has a finding.
#
#   test/setup/fuzz.sh [TARGET…]     without a target: all of them
#
# FUZZ_SECONDS is the time for each. The corpus stays in $WHERRY_CACHE/fuzz, and the next run
# continues from it. If cargo-fuzz is missing, it is installed in $WHERRY_CACHE/tools.
set -euo pipefail
cd "$(dirname "$0")/../.."

CACHE=${WHERRY_CACHE:-/var/cache/wherry}
TOOLS=$CACHE/tools
VERSION=0.13.2
SECONDS_EACH=${FUZZ_SECONDS:-60}
# cargo-fuzz needs sanitizers, which a stable compiler has only with this variable.
export RUSTC_BOOTSTRAP=1

if ! "$TOOLS/bin/cargo-fuzz" --version 2> /dev/null | grep -qF "$VERSION"; then
    RUSTC_BOOTSTRAP='' cargo install cargo-fuzz --locked --version "$VERSION" --root "$TOOLS"
fi

[ $# -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
[ $# -eq 0 ] || targets=("$@")
status=0
for target in "${targets[@]}"; do
    corpus=$CACHE/fuzz/corpus/$target
    found=$CACHE/fuzz/found/$target/
    mkdir -p "$corpus" "$found"
    echo "fuzz.sh: $target, $SECONDS_EACH seconds"
    # The folders of inputs: new inputs are written to the first, the second are the seeds.
    PATH=$TOOLS/bin:$PATH cargo fuzz run --fuzz-dir fuzz --target-dir "${CARGO_TARGET_DIR:-target}/fuzz" \
        --debug-assertions "$target" "$corpus" "fuzz/seeds/$target" -- \
        -max_total_time="$SECONDS_EACH" -timeout=30 -rss_limit_mb=4096 -artifact_prefix="$found" \
        -print_final_stats=1 -verbosity=1 \
        || { echo "fuzz.sh: $target found something: see $found" >&2; status=1; }
done
exit $status
