#!/usr/bin/env bash
# Engines: those whose needs this machine has, and getting what the others need.
#
#   test/setup/engines.sh            prints the engines that can be built; the others on standard error, with the reason
#   test/setup/engines.sh fetch      gets what they need where a machine lacks it, as far as the repository knows how
#   test/setup/engines.sh check E…   fails with the reason unless all of these can be built
#
# An engine is a folder under shims/. One whose library a machine may lack has a setup.sh there: see
# docs/adding-an-engine.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

command=${1:-list}
shift || true
for folder in shims/*; do
    engine=$(basename "$folder")
    setup=$folder/setup.sh
    case $command in
        list)
            if [ ! -e "$setup" ]; then echo "$engine"
            elif why=$("$setup" check 2>&1); then echo "$engine"
            else echo "leaving out $why" >&2
            fi
            ;;
        fetch) [ ! -e "$setup" ] || "$setup" fetch ;;
        check) case " $* " in *" $engine "*) [ ! -e "$setup" ] || "$setup" check ;; esac ;;
        *) echo "usage: engines.sh [fetch|check ENGINE…]" >&2; exit 2 ;;
    esac
done
