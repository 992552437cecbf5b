# Prints what slows this host down or stands in the way of its door, for `bramble doctor`. Changes nothing; of the disk,
# 32 MiB are read. $1 is Bramble's folder here, $2 the folder above it that is there already, $3 the door's port;
# after them an address and a port for each place that this host shall reach. POSIX sh; every tool that may be
# missing is allowed to be.
# shellcheck disable=SC2154 # look.sh, which stands before this, sets line
root=$1
place=$2
port=$3
shift 3

if [ "$(id -u)" = 0 ]; then
    as_root() { "$@"; }
elif sudo -n true </dev/null >/dev/null 2>&1; then
    as_root() { sudo -n "$@"; }
else
    as_root() { return 1; }
fi

printf '\n@@ bramble-checkup 1\n'

first_line /proc/cmdline
case " $line " in
*' cgroup_enable=memory '*) ;;
*' cgroup_disable=memory '*) say cgroup_disabled 1 ;;
esac
for file in /boot/firmware/cmdline.txt /boot/cmdline.txt; do
    [ ! -f "$file" ] || { say cmdline_file "$file" && break; }
done
first_line /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
say governor "$line"
say synchronized "$(timeout 5 timedatectl show --property=NTPSynchronized --value 2>/dev/null)"

case ,$(findmnt -n -o OPTIONS -T "$place" 2>/dev/null), in
*,ro,*) say read_only 1 ;;
esac

# What is to be read past the page cache: the device itself, or weights of ours.
source=
device=$(readlink -f "/sys/dev/block/$(stat -c %Hd:%Ld "$place" 2>/dev/null)" 2>/dev/null)
if [ -d "$device" ] && as_root test -r "/dev/${device##*/}" 2>/dev/null; then
    source=/dev/${device##*/}
else
    for file in "$root"/blobs/sha256/*; do
        if [ -r "$file" ] && [ "$(stat -c %s "$file" 2>/dev/null || echo 0)" -ge 33554432 ]; then
            source=$file
            break
        fi
    done
fi
read_some() {
    # a disk that hangs holds nobody up
    case $source in
    /dev/*) as_root timeout 15 dd if="$source" of=/dev/null bs=4194304 count=8 iflag=direct </dev/null 2>&1 ;;
    *) timeout 15 dd if="$source" of=/dev/null bs=4194304 count=8 iflag=direct </dev/null 2>&1 ;;
    esac
}
[ -z "$source" ] || section read read_some

section swaps head -n 20 /proc/swaps
# What would be free if a program ended, the largest first.
processes() {
    awk '/^Name:/ { name = $2 } /^RssAnon:/ { print $2, name }' /proc/[0-9]*/status | sort -rn | head -n 200
}
section processes processes
listening() {
    # 0A: it listens
    awk '$4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 | head -n 1000
}
section listening listening
section port as_root ss -ltnHp "sport = :$port"

firewall=
if grep -q '^ENABLED=yes' /etc/ufw/ufw.conf 2>/dev/null; then
    firewall=ufw
elif [ "$(timeout 5 systemctl is-active firewalld 2>/dev/null)" = active ]; then
    firewall=firewalld
elif [ "$(timeout 5 systemctl is-active nftables 2>/dev/null)" = active ]; then
    firewall=nftables
fi
say firewall "$firewall"
case $firewall in
ufw) section firewall_ports as_root timeout 5 ufw status ;;
firewalld) section firewall_ports as_root timeout 5 firewall-cmd --list-ports ;;
nftables) section firewall_chains as_root timeout 5 nft list chains ;;
esac

# knock NUMBER ADDRESS PORT: prints the number and what came of it
knock() {
    # shellcheck disable=SC2016 # for the shell inside
    said=$(timeout 4 bash -c 'exec 3<>"/dev/tcp/$1/$2"' knock "$2" "$3" 2>&1 </dev/null)
    status=$?
    case $status:$said in
    0:*) said=open ;;
    124:* | 143:* | *'timed out'*) said=silent ;;
    *refused*) said=refused ;;
    *'known'* | *'resol'* | *'No address'*) said=unresolved ;;
    *'No route'* | *unreachable*) said=no_route ;;
    *) said=unknown ;;
    esac
    printf '%s %s\n' "$1" "$said"
}
knocks() {
    number=0
    while [ $# -ge 2 ]; do
        knock "$number" "$1" "$2" &
        number=$((number + 1))
        shift 2
    done
    wait
}
if [ $# -gt 0 ] && command -v bash >/dev/null 2>&1; then
    section reached knocks "$@"
fi

printf '\n@@ done\n'
