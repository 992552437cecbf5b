# What a manifest says anew of where things are: another name for a host, another port, another folder; and weights on a host
# that are cut off.
# shellcheck shell=bash
run 0 apply --yes

# another name is the same machine: nothing is taken off, by whatever name it was known
edit 's/^  shed:/  barn:/'
run 0 plan
says_not "no longer in the manifest"
run 0 apply --yes
says_not "bramble remove"
run 1 remove shed --yes
says "knows a host shed"
run 0 chat barn Hello --max-tokens 4
says "answered by barn"
restore_manifest
run 0 apply --yes
run 0 chat shed Hello --max-tokens 4
says "answered by shed"
run 0 plan --exit-code

# another port, and back
edit 's/^fleet: stories/&\nserve: { port: 9443 }/'
run 2 plan --exit-code
says "port   8443 -> 9443"
run 0 apply --yes
ask kitchen
says "answered by kitchen"
[ "$("$lab" exec curl -sk -o /dev/null -w '%{http_code}' "https://$("$lab" ip kitchen):9443/healthz")" = 200 ] || die "no door on the new port"
if "$lab" exec curl -sk "https://$("$lab" ip kitchen):8443/healthz"; then die "the old port is open still"; fi
restore_manifest
run 0 apply --yes
ask kitchen
run 0 plan --exit-code

# a host stays in its folder until it is taken off there
edit 's/^  shed: {/& dir: \/srv\/bramble,/'
run 3 plan
says "take it off first (\`bramble remove shed\`)"
run 3 apply --yes
run 0 remove shed --yes
on shed test ! -e /var/lib/bramble || die "it was not taken off where it was"
run 0 apply --yes
on shed test -d /srv/bramble/current/ || die "it is not in the folder of the manifest"
run 0 chat shed Hello --max-tokens 4
run 0 remove shed --yes
on shed test ! -e /srv/bramble || die "something is left"
restore_manifest
run 0 apply --yes

# weights that a disk has cut off are sent again, as status says
blob=$(on kitchen readlink -f /var/lib/bramble/current/models/chat*)
on kitchen truncate -s -2 "$blob"
run 0 status
says "bytes instead of"
run 2 plan --exit-code
says "138 MiB to push"
run 0 apply --yes
ask kitchen
says "answered by kitchen"
run 0 plan --exit-code

# a generation that is nowhere is refused before anybody is asked
run 1 rollback --to 9999 --yes
says "generation 9999 is not on"
