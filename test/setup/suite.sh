# Functions for Debian packages of another suite than the machine's, without changing the system.
# The script that sources this has a function `fail` and sets APT_HOME, the folder of apt's lists.
# shellcheck shell=bash

# apt with private lists, cache and sources for one suite; its state is kept between calls.
suite_apt() {
    local suite=$1
    shift
    local home=$APT_HOME/$suite
    apt-get -q=2 \
        -o Dir::State="$home" -o Dir::State::Lists="$home/lists" -o Dir::State::status="$home/status" \
        -o Dir::Cache="$home/cache" -o Dir::Etc::sourcelist="$home/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::Retries=3 "$@"
}

# Reads the lists of a suite, once per run of this script.
declare -A LISTS_READ=()
read_lists() {
    local suite=$1 home=$APT_HOME/$1 keyring mirror
    [ -z "${LISTS_READ[$suite]:-}" ] || return 0
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] || fail "$keyring is missing: install the package debian-archive-keyring"
    mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
    : > "$home/status"
    mirror=$("$(dirname "${BASH_SOURCE[0]}")/mirror.sh") || exit 1
    echo "deb [signed-by=$keyring] $mirror $suite main" > "$home/sources.list"
    suite_apt "$suite" update || fail "the package lists of Debian's suite '$suite' cannot be read from $mirror"
    LISTS_READ[$suite]=1
}
