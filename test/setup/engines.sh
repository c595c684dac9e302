#!/usr/bin/env bash
# Lists the engines that this machine can build, and fetches the libraries of the others.
#
#   test/setup/engines.sh            prints the engines that can be built, and why others cannot
#   test/setup/engines.sh fetch      fetches missing libraries, as far as a setup.sh can
#   test/setup/engines.sh check E…   fails with the reason unless all of these can be built
#
# An engine is a folder under shims/. It has a setup.sh if a machine may lack its library: see
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
