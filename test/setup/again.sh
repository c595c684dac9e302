#!/usr/bin/env bash
# Runs tests, and those that failed once more, one at a time, if they are few. A test that passes
# alone is reported as unstable and does not fail the run: it deserves a look, because it depends on
# the load of the machine or has found a race.
#
#   test/setup/again.sh LOG CARGO test OPTION… -- OPTION…
#
# The output goes to LOG too. AGAIN is the largest number of failed tests that are run again; 0, the
# default: none.
set -uo pipefail

log=$1
shift
mkdir -p "$(dirname "$log")"
"$@" 2>&1 | tee "$log" && exit

mapfile -t failed < <(sed -n 's/^test \(\S*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
# A test program that did not run to its end, or was not built, has reported no failed test.
[ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le "${AGAIN:-0}" ] || exit 1
! grep -qE '^error(: could not compile|\[)' "$log" || exit 1

command=()
for word; do
    [ "$word" != -- ] || break
    command+=("$word")
done
echo "again: ${failed[*]}" | tee -a "$log"
"${command[@]}" -- --test-threads 1 --exact "${failed[@]}" 2>&1 | tee -a "$log" || exit 1
# For readers of the log, such as the table of compatibility: each has passed.
sed -i 's/^\(test \S* \.\.\.\) FAILED$/\1 ok/' "$log"
printf 'unstable: %s\n' "${failed[@]}" | tee -a "$log"
