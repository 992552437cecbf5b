# A dead host does not stop the others; the next run catches it up.
# shellcheck shell=bash
before=$(generation shed)
"$lab" cut shed
edit 's/context: 1024/context: 896/'
run 2 apply --yes
says "shed"
says "left out"
"$lab" on shed
"$lab" look shed pi4-1gb-220mib
[ "$(generation shed)" = "$before" ] || die "shed was changed"
run 0 apply --yes
says "Applied: 3 hosts"
[ "$(generation shed)" -gt "$before" ]
ask shed
says "answered by shed"
restore_manifest
run 0 apply --yes
