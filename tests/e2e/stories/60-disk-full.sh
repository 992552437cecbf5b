# A host whose disk is full is refused with both numbers; one that fills up on the way keeps serving.
# shellcheck shell=bash
before=$(generation shed)
# a small disk of its own for uploads
on shed 'mkdir -p /mnt/small && mount -t tmpfs -o size=400m tmpfs /mnt/small'
edit "s|shed: { address: \(.*\) }|shed: { address: \1, dir: /mnt/small/bramble }|"
on shed fallocate -l 390M /mnt/small/full
run 3 plan
says "shed needs"
says "free"
on shed rm /mnt/small/full
# it fills up after the plan was made
run 0 plan --out full.plan.json
on shed fallocate -l 390M /mnt/small/full
run 2 apply full.plan.json
says "shed"
says "room"
[ "$(generation shed)" = "$before" ] || die "shed was changed"
ask shed
says "answered by shed"
on shed 'rm -rf /mnt/small/*; umount /mnt/small'
restore_manifest
run 0 apply --yes
