# Prints what this host is, for Bramble. Changes nothing.
# $1 is Bramble's folder here; empty: the usual one. POSIX sh; every tool that may be missing is allowed to be.
# A program, or a shell more, takes longer than all that the shell does by itself, which is why it does most.
# shellcheck disable=SC2154 # look.sh, which stands before this, sets line
root=$1

# Prints a file that is short: the shell reads it byte by byte.
lines() {
    [ -r "$1" ] || return 0
    left=100
    while [ "$left" -gt 0 ] && { IFS= read -r line || [ -n "$line" ]; }; do
        printf '%s\n' "$line"
        left=$((left - 1))
    done <"$1"
}
as_root() {
    case $login$user in
    sudo) sudo -n "$@" ;;
    *) "$@" ;;
    esac
}

printf '\n@@ bramble-probe 1\n'

say machine "$(uname -m)"
bits=$(getconf LONG_BIT 2>/dev/null)
if [ -z "$bits" ]; then
    # no getconf: the fifth byte of an ELF file says 1 for 32 bits, 2 for 64
    case $(od -An -tu1 -j4 -N1 /bin/sh 2>/dev/null | tr -d ' ') in
    1) bits=32 ;;
    2) bits=64 ;;
    esac
fi
say bits "$bits"
say page_size "$(getconf PAGESIZE 2>/dev/null)"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
for file in /lib/ld-musl-*.so.1; do
    [ -n "$libc" ] || [ ! -e "$file" ] || libc=musl
done
say libc "$libc"
# /proc/device-tree does not exist everywhere that the other does
for file in /proc/device-tree/model /sys/firmware/devicetree/base/model; do
    if [ -r "$file" ]; then
        # a NUL ends it
        say model "$(head -n 1 "$file" 2>/dev/null | tr -d '\000')"
        break
    fi
done
say cores "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)"
say clock "$(date +%s)"

first_line /sys/class/thermal/thermal_zone0/temp
say millicelsius "$line"
throttled=
if command -v vcgencmd >/dev/null 2>&1; then
    throttled=$(vcgencmd get_throttled 2>/dev/null </dev/null)
fi
for file in /sys/devices/platform/soc*/soc*:firmware/get_throttled; do
    if [ -z "$throttled" ]; then
        first_line "$file"
        throttled=$line
    fi
done
say throttled "${throttled#throttled=}"

# the address that we came to, where sshd tells it
reached=${SSH_CONNECTION:-}
reached=${reached% *}
say reached "${reached##* }"

# the interface of the default route
link=
if [ -r /proc/net/route ]; then
    while read -r name to rest; do
        [ "$to" = 00000000 ] && link=$name && break
    done </proc/net/route
fi
if [ -n "$link" ]; then
    say link "$link"
    first_line "/sys/class/net/$link/speed"
    say link_speed "$line"
    if [ -d "/sys/class/net/$link/wireless" ] || [ -e "/sys/class/net/$link/phy80211" ]; then
        say link_wireless 1
    fi
fi

uid=$(id -u)
if [ "$uid" = 0 ]; then
    login=root
elif sudo -n true </dev/null >/dev/null 2>&1; then
    login=sudo
elif command -v sudo >/dev/null 2>&1 && id -nG 2>/dev/null | tr ' ' '\n' | grep -qxE 'sudo|wheel|admin'; then
    login=password
else
    login=none
fi
say login "$login"

if [ -d /run/systemd/system ]; then
    systemd=$(systemctl --version 2>/dev/null)
    say systemd "${systemd%%
*}"
fi

# Who cannot become root has a systemd of its own, and a folder. What was installed so stays
# so, also when the login may become root by now.
case ${XDG_DATA_HOME:-} in
/*) own=$XDG_DATA_HOME/bramble ;;
*) own=$HOME/.local/share/bramble ;;
esac
user=
if [ -d /run/systemd/system ]; then
    case $login in
    root) ;;
    none) user=$(id -un) ;;
    *) [ "$(stat -c %u "${root:-$own}/.bramble" 2>/dev/null)" != "$uid" ] || user=$(id -un) ;;
    esac
fi
if [ -n "$user" ]; then
    say user "$user"
    # sshd sets it only where it asks PAM
    XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$uid}
    export XDG_RUNTIME_DIR
    say user_manager "$(systemctl --user show --property=Version --value 2>/dev/null)"
    # an answer that does not come holds nobody up
    if [ "$(loginctl show-user "$user" --property=Linger --value 2>/dev/null)" = yes ]; then
        say linger yes
    elif timeout 5 pkcheck --action-id org.freedesktop.login1.set-self-linger --process $$ >/dev/null 2>&1; then
        say linger allowed
    fi
    if timeout 5 unshare --user --map-root-user true 2>/dev/null; then
        say namespaces 1
    fi
fi
if [ -z "$root" ]; then
    root=/var/lib/bramble
    [ -z "$user" ] || root=$own
    say root "$root"
fi

# the nearest folder above Bramble's that is there already
place=$root
while [ ! -d "$place" ] && [ "$place" != / ] && [ -n "$place" ]; do
    case $place in
    ?*/*) place=${place%/*} ;;
    /*) place=/ ;;
    *) place=. ;;
    esac
done
say disk_path "$place"
say filesystem "$(stat -f -c %T "$place" 2>/dev/null)"

# the block device below it; filesystems over several have none
device=$(readlink -f "/sys/dev/block/$(stat -c %Hd:%Ld "$place" 2>/dev/null)" 2>/dev/null)
if [ -d "$device" ]; then
    say device "$device"
    first_line "$device/queue/rotational"
    [ -n "$line" ] || first_line "$device/../queue/rotational"
    say rotational "$line"
fi

gpus() {
    for card in /sys/class/drm/card[0-9]; do
        # what has no vendor is part of the processor's chip
        if [ -r "$card/device/vendor" ]; then
            first_line "$card/device/vendor"
            vendor=$line
            first_line "$card/device/mem_info_vram_total"
            printf '%s %s\n' "$vendor" "$line"
        fi
    done
}
nvidia() {
    # a driver that hangs holds nobody up
    timeout 5 nvidia-smi --query-gpu=memory.total,name --format=csv,noheader,nounits </dev/null
}
section gpus gpus
if getent group render >/dev/null 2>&1; then
    say render_group 1
fi
if command -v nvidia-smi >/dev/null 2>&1; then
    section nvidia nvidia
fi
section cpuinfo head -n 2000 /proc/cpuinfo
section meminfo head -n 100 /proc/meminfo
section swaps lines /proc/swaps
section df df -Pk "$place"
section df_inodes df -Pi "$place"
section os_release lines /etc/os-release
# of a login's systemd, what was handed down to it
controllers=/sys/fs/cgroup
[ -z "$user" ] || controllers=$controllers/user.slice/user-$uid.slice/user@$uid.service
if [ -r "$controllers/cgroup.controllers" ]; then
    section cgroup2 lines "$controllers/cgroup.controllers"
fi
[ -n "$user" ] || section cgroups lines /proc/cgroups

inspect() { section inspect as_root "$1" inspect --root "$root" </dev/null; }
is_there() { as_root test "$1" "$2" </dev/null 2>/dev/null; }
brambled=$root/current/program/brambled
if is_there -e "$brambled"; then
    inspect "$brambled"
elif is_there -L "$root/current"; then
    # the program of what is in force has been lost: any other that is whole says what that is, and its name says at
    # least that something is
    link=$(as_root readlink "$root/current" </dev/null 2>/dev/null)
    say lost "${link##*/}"
    # shellcheck disable=SC2016 # for the shell inside
    others='for one in "$1"/programs/*/brambled; do
        case $one in *.partial/*) ;; *) [ ! -x "$one" ] || echo "$one" ;; esac
    done'
    for other in $(as_root sh -c "$others" sh "$root" </dev/null 2>/dev/null); do
        said=$(as_root "$other" inspect --root "$root" </dev/null 2>/dev/null) || continue
        section inspect printf '%s\n' "$said"
        break
    done
fi

printf '\n@@ done\n'
