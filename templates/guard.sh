#!/bin/sh
# Takes a generation back that was activated and never confirmed. Plain sh, so that
# nothing of what it watches over is needed to run it, and safe to run at any time and
# again: what is pending stays so until the very end.
#
#   guard.sh ROOT systemd|user|process [UNITS [TOKEN]]
#
# `user` is the systemd of the login. UNITS is its folder of units. With TOKEN it acts only on the activation that
# armed it, so that an old timer never takes back a later one.
set -u
umask 022
root=$1 how=$2 units=${3:-/etc/systemd/system} token=${4:-} target=multi-user.target
if [ "$how" = user ]; then
    units=${3:-$HOME/.config/systemd/user} target=default.target
    systemctl() { command systemctl --user "$@"; }
fi
pending=$root/pending

field() { sed -n "s/^$1=//p" "$pending" 2>/dev/null | head -n 1; }
is_pending() {
    [ -f "$pending" ] || return 1
    [ -z "$token" ] || [ "$(field token)" = "$token" ]
}
number() { case $1 in '' | *[!0-9]*) ;; *) echo "$1" ;; esac; }

is_pending || exit 0
# A verb at work goes first: it confirms, or goes back by itself. One that hangs does not stop us.
exec 9>>"$root/lock"
if command -v flock >/dev/null 2>&1; then flock -w 45 9 || true; fi
is_pending || exit 0

generation=$(number "$(field generation)")
previous=$(number "$(field previous)")
if [ -n "$previous" ] && [ ! -f "$root/generations/$previous/definition.json" ]; then previous=; fi
echo "generation ${generation:-?} was not confirmed: going back to ${previous:-nothing}"

# `current`: replaced in one step, so that a power cut here leaves the one or the other.
if [ -n "$previous" ]; then
    rm -f "$root/current.guard"
    ln -s "generations/$previous" "$root/current.guard"
    mv -fT "$root/current.guard" "$root/current" 2>/dev/null ||
        { rm -f "$root/current" && mv -f "$root/current.guard" "$root/current"; }
else
    rm -f "$root/current"
fi
sync

if [ "$how" != process ]; then
    wanted= wants=$units/$target.wants
    [ -z "$previous" ] || wanted=$root/generations/$previous/units
    # At boot this runs before our services: their waiting starts are cancelled, not waited for.
    for unit in "$units"/bramble-route.service "$units"/bramble-engine-*.service; do
        [ -f "$unit" ] || continue
        name=${unit##*/}
        systemctl stop --no-block "$name"
        if [ -z "$wanted" ] || [ ! -f "$wanted/$name" ]; then
            rm -f "$unit" "$wants/$name"
        fi
    done
    if [ -n "$wanted" ]; then
        for unit in "$wanted"/bramble-*.service; do
            [ -f "$unit" ] || continue
            name=${unit##*/}
            cp "$unit" "$units/.$name.guard" && mv -f "$units/.$name.guard" "$units/$name"
            # as `systemctl enable` does
            [ "$(readlink "$wants/$name")" = "$units/$name" ] ||
                { mkdir -p "$wants" && ln -sfn "$units/$name" "$wants/$name"; }
        done
    fi
    systemctl daemon-reload
    if [ -n "$wanted" ]; then
        for unit in "$wanted"/bramble-*.service; do
            [ -f "$unit" ] || continue
            name=${unit##*/}
            case $name in bramble-guard-*) continue ;; esac
            systemctl reset-failed "$name" 2>/dev/null
            # restart, not start: the stop above may still be on its way
            systemctl restart --no-block "$name"
        done
    else
        rm -f "$units/bramble-guard-boot.service" "$wants/bramble-guard-boot.service"
        systemctl daemon-reload
    fi
else
    # Our own supervisor: stopped with everything it started, then started from what is current.
    pid=$(number "$(head -n 1 "$root/run/supervise.pid" 2>/dev/null)")
    # one that has ended has no arguments, also where nobody asks for its status
    supervises() { [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q ' supervise '; }
    if supervises; then
        kill -TERM "$pid" 2>/dev/null
        left=40
        while [ $left -gt 0 ] && supervises; do sleep 1; left=$((left - 1)); done
        ! supervises || kill -KILL "$pid" 2>/dev/null
    fi
    if [ -n "$previous" ] && [ "${BRAMBLE_GUARD_START:-yes}" = yes ]; then
        # the descriptor of the lock stays here
        "$root/current/program/brambled" supervise --root "$root" </dev/null >/dev/null 2>&1 9>&- &
    fi
fi

printf 'generation=%s\nprevious=%s\n' "${generation:-0}" "$previous" >"$root/taken-back.new" &&
    mv -f "$root/taken-back.new" "$root/taken-back"
sync
rm -f "$pending"
sync
