# The first process of a node: it mounts the node's own view and then only reaps orphans.
# Arguments: the node's folder, its name.
set -e
folder=$1
mount --make-rprivate /
# The network devices of this node; the groups of the machine below.
mkdir -p "$folder/sys"
mount -t sysfs sysfs "$folder/sys"
mount --rbind /sys/fs/cgroup "$folder/sys/fs/cgroup"
mount --rbind "$folder/sys" /sys
mount -t proc proc /proc
# The kubelet sets these for the whole machine unless they are what it wants: files over them keep
# the machine as it is.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$folder/sysctl/${setting%=*}
    mkdir -p "${file%/*}"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
# Pods with a user namespace need one proc that nothing covers.
mkdir -p "$folder/proc"
mount -t proc proc "$folder/proc"
mount --bind "$folder/etc/containerd" /etc/containerd
mount --bind "$folder/etc/hosts" /etc/hosts
mount --bind "$folder/etc/resolv.conf" /etc/resolv.conf
mount --bind "$folder/lib" /var/lib
mount --bind "$folder/log" /var/log
mount --bind "$folder/run" /run
# Pods may ask for mounts that pass on in both directions.
mount --make-rshared /
hostname "$2"
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
# A connection that was cut is not picked up in the middle.
echo 0 2>/dev/null >/proc/sys/net/netfilter/nf_conntrack_tcp_loose || true
touch "$folder/up"
exec >&- 2>&-
sleep infinity &
wait
