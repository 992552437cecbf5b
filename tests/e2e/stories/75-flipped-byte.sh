# Weights that a disk has changed since they came are never served: the old ones go on, and the next apply sends only
# what is damaged. In use, such a change shows, too.
# shellcheck shell=bash
before=$(generation kitchen)
run 0 convert hf:HuggingFaceTB/SmolLM2-135M-Instruct --quant Q6_K --out "$work"
run 0 push "$work/SmolLM2-135M-Instruct-Q6_K.gguf" kitchen
says "1 host"
blob=$(sed -n 's/^+ kitchen: .*: \(\/.*\)$/\1/p' <<<"$said")
flip() { on kitchen "printf $2 | dd of=$blob bs=1 seek=$1 conv=notrunc status=none"; }
# as a disk loses it by itself, without a trace
lose() {
    local time
    time=$(on kitchen stat -c %y "$blob")
    flip "$@"
    on kitchen "touch -d '$time' $blob"
}
lose 50000000 x
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

# in use: whoever writes to them is noticed
process() { on kitchen systemctl show -P MainPID bramble-engine-chat; }
was=$(process)
flip 60000000 y
run 0 status
says "may be damaged"
run 2 plan --exit-code
says "may be damaged"
sent=$(b apply --yes --json | jq '.hosts.kitchen.bytes_sent')
[ "$sent" -gt 0 ] && [ "$sent" -le $((4 << 20)) ] || die "$sent bytes were sent again"
[ "$(process)" != "$was" ] || die "the engine still has the weights that were damaged"
run 0 status
says_not "apply\` mends it"
ask kitchen
says Q6_K
# sent again, and nobody came to start the engine anew
flip 60000000 z
run 0 push "$work/SmolLM2-135M-Instruct-Q6_K.gguf" kitchen
run 0 status
says "engine-chat may run weights that were sent again since"
was=$(process)
run 0 apply --yes
[ "$(process)" != "$was" ] || die "the engine still has the weights that were damaged"
run 0 plan --exit-code
# what a disk loses by itself shows when it is hashed
lose 70000000 z
run 0 status
says_not "damaged"
run 1 status kitchen --verify
says "are damaged: their digest is"
run 0 apply --yes
run 0 status --verify
says "sound"
ask kitchen
says Q6_K
restore_manifest
run 0 apply --yes
