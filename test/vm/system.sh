#!/usr/bin/env bash
# Configures the system of the image: image.sh calls this as a hook of mmdebstrap.
#
#   test/vm/system.sh before|after ROOT     before packages are unpacked, after configuration
set -euo pipefail

# Configuration before the packages are unpacked: no documentation, and only the modules of the disk
# in the initial ramdisk.
before() {
    mkdir -p "$1/etc/dpkg/dpkg.cfg.d" "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
    printf 'path-exclude=/usr/share/%s/*\n' doc man locale info lintian > "$1/etc/dpkg/dpkg.cfg.d/small"
    echo MODULES=list > "$1/etc/initramfs-tools/conf.d/modules"
    printf '%s\n' virtio_pci virtio_blk > "$1/usr/share/initramfs-tools/modules.d/disk"
}

# Configuration after that: root without a password on the console, and a unit that runs the tests.
after() {
    local unit=$1/etc/systemd/system
    echo wherry-vm > "$1/etc/hostname"
    echo '127.0.0.1 localhost wherry-vm' > "$1/etc/hosts"
    : > "$1/etc/resolv.conf"
    sed -i 's/^root:[^:]*:/root::/' "$1/etc/shadow"
    printf '%s\n' '/dev/vda / ext4 rw 0 1' '/dev/vdb /payload ext4 ro 0 0' 'tmpfs /tmp tmpfs size=75% 0 0' > "$1/etc/fstab"
    mkdir -p "$1/payload" "$unit/multi-user.target.wants" "$1/var/lib/systemd/linger"
    echo overlay > "$1/etc/modules-load.d/wherry.conf"
    cat > "$unit/wherry-test.service" << 'UNIT'
[Unit]
Description=The tests that are on the second disk
After=dbus.service
RequiresMountsFor=/payload /tmp
ConditionKernelCommandLine=!wherry.shell
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/payload/inside.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
LimitNOFILE=65536
UNIT
    ln -s ../wherry-test.service "$unit/multi-user.target.wants/wherry-test.service"
    mkdir "$unit/serial-getty@ttyS0.service.d"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %%I 115200 vt220\n' \
        > "$unit/serial-getty@ttyS0.service.d/autologin.conf"
    # Timers and checks that a machine of a few minutes does not need.
    local unwanted
    for unwanted in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer systemd-tmpfiles-clean.timer systemd-udev-settle.service getty@tty1.service; do
        ln -sf /dev/null "$unit/$unwanted"
    done
}

"$1" "$2"
