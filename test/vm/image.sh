#!/usr/bin/env bash
# Builds the image of a small Debian with systemd and cgroup v2, and prints the folder that contains
# it: `vmlinuz`, `initrd.img` and `disk.img`.
#
# The folder in $WHERRY_CACHE/vm is named after a digest of the scripts, so that a changed script
# builds a new image. An existing image needs no network; an interrupted build leaves nothing
# behind.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
CACHE=${WHERRY_CACHE:-/var/cache/wherry}/vm

# Programs that the tests call, and libraries of the executables under test.
PACKAGES=systemd-sysv,dbus,udev,kmod,linux-image-cloud-amd64,initramfs-tools,zstd
PACKAGES+=,apparmor,iproute2,iptables,procps,util-linux,bsdutils,mount,make,strace,libseccomp2,libgcc-s1

fail() {
    echo "image.sh: $*" >&2
    exit 1
}

build() {
    local folder=$1 new mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ "$(id -u)" = 0 ] || fail "only root can unpack a system"
    [ -e "$keyring" ] || fail "$keyring is missing: install the package debian-archive-keyring"
    mirror=$("$HERE/../setup/mirror.sh")
    new=$(mktemp -d "$CACHE/.new.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$new'" EXIT
    # The environment's locale may not exist in the new system. A root of 0700 would be its /.
    mkdir -m 755 "$new/root"
    LC_ALL=C mmdebstrap --quiet --mode=root --variant=minbase --keyring="$keyring" --include="$PACKAGES" \
        --essential-hook="$HERE/system.sh before \"\$1\"" --customize-hook="$HERE/system.sh after \"\$1\"" \
        bookworm "$new/root" "$mirror" >&2 \
        || fail "Debian cannot be unpacked from $mirror"
    mkdir "$new/image"
    mv "$new"/root/boot/vmlinuz-* "$new/image/vmlinuz"
    mv "$new"/root/boot/initrd.img-* "$new/image/initrd.img"
    rm -rf "$new"/root/var/cache/apt/* "$new"/root/var/lib/apt/lists/*
    mke2fs -q -t ext4 -O ^has_journal -d "$new/root" "$new/image/disk.img" 3G >&2 || fail "no image can be built from $new/root"
    mv "$new/image" "$folder"
}

main() {
    local key folder
    key=$(cat "$HERE/image.sh" "$HERE/system.sh" | sha256sum | cut -c1-12)
    folder=$CACHE/$key
    mkdir -p "$CACHE"
    # Two concurrent runs would build it twice.
    exec 9> "$CACHE/.lock"
    flock 9
    rm -rf --one-file-system "$CACHE"/.new.*
    [ -e "$folder/disk.img" ] || build "$folder"
    echo "$folder"
}

main
