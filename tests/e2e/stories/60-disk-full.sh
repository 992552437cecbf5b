# A host whose disk is full is refused with both numbers; one that fills up on the way keeps serving.
# shellcheck shell=bash
before=$(generation kitchen)
# a small disk of its own for what is sent
on kitchen 'mkdir -p /mnt/small && mount -t tmpfs -o size=600m tmpfs /mnt/small'
edit 's|kitchen: { address: \(.*\) }|kitchen: { address: \1, dir: /mnt/small/bramble }|'
on kitchen fallocate -l 590M /mnt/small/full
run 3 plan
says "kitchen needs"
says "/mnt/small has"
on kitchen rm /mnt/small/full
# it fills up after the plan was made
run 0 plan --out full.plan.json
on kitchen fallocate -l 570M /mnt/small/full
run 1 apply full.plan.json
says "kitchen"
says "and the disk has"
[ "$(generation kitchen)" = "$before" ] || die "kitchen was changed"
ask kitchen
says "answered by kitchen"
on kitchen 'rm -rf /mnt/small/*; umount /mnt/small'
restore_manifest
run 0 plan --exit-code
