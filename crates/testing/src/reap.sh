# Ends everything that belongs to one scope. Runs as a child of the test process, which writes
# the scope to its standard input and keeps that open: the end of the input means that the scope has
# ended, or that the test process has died.
#
# Input: line 1 the scope's folder, line 2 its name (network namespace and cgroup). The folder is
# passed by pipe and not as an argument, so that this process is not taken for one of the scope.
read -r root
read -r name
cat > /dev/null

export LC_ALL=C

# Processes that name the folder in their command line or environment, work in it, or (guests) have
# their root filesystem from it. Mounts do not count: unrelated mount namespaces may contain them
# too.
members() {
    {
        grep -lsFf /dev/stdin /proc/[0-9]*/cmdline /proc/[0-9]*/environ <<< "$root" | cut -d/ -f3
        find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$root" -o -lname "$root/*" \) 2> /dev/null | cut -d/ -f3
        grep -sHF -- "$root/" /proc/[0-9]*/mountinfo | awk '$5 == "/" { split($1, part, "/"); print part[3] }'
    } | sort -un | while read -r pid; do [ -d "/proc/$pid" ] && echo "$pid"; done
}

for _ in $(seq 100); do
    pids=$(members)
    [ -n "$pids" ] || break
    # A paused container does not react to a signal.
    for pid in $pids; do
        group=$(sed -n 's/^[0-9]*:freezer://p' "/proc/$pid/cgroup" 2> /dev/null)
        [ -z "$group" ] || [ "$group" = / ] || echo THAWED > "/sys/fs/cgroup/freezer$group/freezer.state"
        kill -KILL "$pid"
    done
    sleep 0.02
done 2> /dev/null

# Killed shims leave their sockets: the bundles contain the addresses.
find "$root" -name address -exec cat {} + 2> /dev/null | grep -ao '/run/containerd/s/[0-9a-f]*' | xargs -r rm -f
find "$root" -name bootstrap.json -exec cat {} + 2> /dev/null | grep -ao '/run/containerd/s/[0-9a-f]*' | xargs -r rm -f

for _ in 1 2 3 4 5; do
    mounts=$(awk -v root="$root" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac)
    [ -n "$mounts" ] || break
    for mount in $mounts; do umount -l "$mount"; done
done 2> /dev/null

[ ! -e "/run/netns/$name" ] || ip netns del "$name" 2> /dev/null

# Stopping a slice of systemd's stops the units in it.
[ ! -d /run/systemd/system ] || systemctl --quiet stop "$name.slice" 2> /dev/null
for _ in $(seq 50); do
    groups=$(find /sys/fs/cgroup -depth -type d -path "*/$name*" 2> /dev/null)
    [ -n "$groups" ] || break
    for group in $groups; do rmdir "$group"; done
    sleep 0.02
done 2> /dev/null

rm -rf --one-file-system "$root"
