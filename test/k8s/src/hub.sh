# The first process of the control plane's machine. Argument: its folder.
set -eu
ip link set lo up
ip link add br0 type bridge
ip addr add 10.70.0.1/16 dev br0
# The address of the service `kubernetes`: without a kube-proxy, the API server itself has it, on
# port 443.
ip addr add 10.96.0.1/32 dev br0
ip link set br0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
# bash reaps the orphans of the pid namespace while it waits.
set +e
sleep infinity &
while :; do wait; done
