# The operator is interrupted, and then killed, in the middle of a push: what serves goes on serving, and the next apply
# sends only the rest.
# shellcheck shell=bash disable=SC2154
before=$(generation kitchen)
edit 's/, context: 1024/, context: 1024, quant: F16/; s/on: { role: pi }/on: [kitchen]/'
"$lab" rate kitchen 160mbit
partial() { on kitchen 'cat /var/lib/bramble/partial/* 2>/dev/null | wc -c'; }
# apply_until BYTES: begins an apply, and waits until so much is there
apply_until() {
    b apply --yes >broken.log 2>&1 &
    operator=$!
    for _ in $(seq 600); do
        [ "$(partial)" -gt "$1" ] && break
        kill -0 $operator 2>/dev/null || break
    done
    [ "$(partial)" -gt "$1" ] || { cat broken.log; die "the push was never seen"; }
}
# one Ctrl-C: it comes to an end by itself, and says so
apply_until 20000000
stop_operator INT $operator || die "the operator was gone"
status=0
wait $operator || status=$?
cat broken.log
[ $status = 130 ] || die "an interrupted apply ended with $status"
grep -q 'Interrupted: the step in hand is finished or undone first' broken.log || die "nothing was said"
grep -q 'what was sent is kept' broken.log || die "it did not say what is kept"
[ "$(generation kitchen)" = "$before" ] || die "kitchen was changed"
kept=$(partial)
[ "$kept" -gt 0 ] || die "nothing was kept"

apply_until $((kept + 20000000))
stop_operator KILL $operator || die "the operator was gone"
wait $operator || true
[ "$(generation kitchen)" = "$before" ] || die "kitchen was changed"
ask kitchen
says "answered by kitchen"
"$lab" rate kitchen max
[ "$(partial)" -gt "$kept" ] || die "nothing was kept"
sent=$(b apply --yes --json | jq '.hosts.kitchen.bytes_sent')
whole=$(on kitchen 'stat -L -c %s /var/lib/bramble/current/models/chat.gguf')
[ "$sent" -le $((whole - kept - 20000000)) ] || die "$sent of $whole bytes were sent again"
ask kitchen
says F16
restore_manifest
run 0 apply --yes
