# remove leaves nothing of ours behind.
# shellcheck shell=bash
run 0 remove kitchen --yes
on kitchen test ! -e /var/lib/bramble
on kitchen '! ls /etc/systemd/system/ | grep -q bramble'
on kitchen '! id bramble 2>/dev/null'
on kitchen '! pgrep brambled'
run 0 remove --all --yes
on shed test ! -e /var/lib/bramble
[ ! -e "$work/desk" ]
