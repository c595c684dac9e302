# The first process of a node's machine. Arguments: its folder $0, the folder of the CNI plugins $1.
#
# The node sees the host's files; what a node's programs write goes into its folder.
set -eu
root=$0
exec 3>&1 >&2
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
for folder in /etc /var/lib /var/log /usr/local /opt; do
    upper=$root/own$folder
    mkdir -p "$upper" "$root/work$folder"
    mount -t overlay -o "lowerdir=$folder,upperdir=$upper,workdir=$root/work$folder" overlay "$folder"
done
# A snapshotter's overlays cannot lie on an overlay.
for folder in /var/lib/containerd /var/lib/kubelet /var/log/pods; do
    mkdir -p "$root/own-$(basename "$folder")" "$folder"
    mount --bind "$root/own-$(basename "$folder")" "$folder"
done
mkdir -p /opt/cni/bin /etc/cni/net.d
# The folder has links to the real ones, which would lead nowhere from there.
mount --bind "$(dirname "$(realpath "$1/bridge")")" /opt/cni/bin
# As systemd leaves it: a kubelet needs that for mounts that go both ways.
mount --make-rshared /
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready >&3
exec 3>&-
# bash reaps the orphans of the pid namespace while it waits.
set +e
sleep infinity &
while :; do wait; done
