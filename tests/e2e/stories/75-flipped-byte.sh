# Weights that a disk has changed since they came are never served: they are put aside, the old ones
# go on, and the next apply sends only what is damaged.
# shellcheck shell=bash
before=$(generation kitchen)
run 0 convert hf:HuggingFaceTB/SmolLM2-135M-Instruct --quant Q6_K --out "$work"
run 0 push "$work/SmolLM2-135M-Instruct-Q6_K.gguf" kitchen
says "1 host"
blob=$(sed -n 's/^+ kitchen: .*: \(\/.*\)$/\1/p' <<<"$said")
on kitchen "printf x | dd of=$blob bs=1 seek=50000000 conv=notrunc status=none"
edit 's/, context: 1024/, context: 1024, quant: Q6_K/; s/on: { role: pi }/on: [kitchen]/'
run 2 apply --yes
says "by now, so its disk or memory is not to be trusted"
[ "$(generation kitchen)" = "$before" ] || die "kitchen was changed"
ask kitchen
says "answered by kitchen"
sent=$(b apply --yes --json | jq '.hosts.kitchen.bytes_sent')
[ "$sent" -gt 0 ] && [ "$sent" -le $((4 << 20)) ] || die "$sent bytes were sent again"
ask kitchen
says Q6_K
restore_manifest
run 0 apply --yes
