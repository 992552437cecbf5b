# A host whose disk is full is refused with both numbers; one that fills up on the way keeps serving.
# shellcheck shell=bash
# a small disk of its own for all that kitchen keeps
run 0 remove kitchen --yes
on kitchen 'mkdir -p /mnt/small && mount -t tmpfs -o size=600m tmpfs /mnt/small'
edit 's|kitchen: { address: \(.*\) }|kitchen: { address: \1, dir: /mnt/small/bramble }|'
run 0 apply --yes
ask kitchen
says "answered by kitchen"
before=$(on kitchen readlink /mnt/small/bramble/current)

# other weights, and no room for them
edit 's/context: 1024 }/context: 1024, quant: Q6_K }/; s/on: { role: pi }/on: [kitchen]/'
leave() { on kitchen "rm -f /mnt/small/full; fallocate -l \$((\$(stat -f -c '%a * %S' /mnt/small) - ($1 << 20))) /mnt/small/full"; }
leave 10
run 3 plan
says "more on the disk of kitchen"
says "/mnt/small/bramble has room for"
on kitchen rm /mnt/small/full
# it fills up after the plan was made
run 0 plan --out full.plan.json
leave 30
run 2 apply full.plan.json
says "/mnt/small/bramble/partial has 30.0 MiB"
says "generation 1 still serves"
[ "$(on kitchen readlink /mnt/small/bramble/current)" = "$before" ] || die "kitchen was changed"
ask kitchen
says "answered by kitchen"

run 0 remove kitchen --yes
on kitchen umount /mnt/small
restore_manifest
run 0 apply --yes
run 0 plan --exit-code
