# The operator is killed in the middle of a push: what serves goes on serving, and the next apply
# sends only the rest.
# shellcheck shell=bash
before=$(generation kitchen)
edit 's/, context: 1024/, context: 1024, quant: F16/; s/on: { role: pi }/on: [kitchen]/'
"$lab" rate kitchen 160mbit
b apply --yes >killed.log 2>&1 &
operator=$!
partial() { on kitchen 'cat /var/lib/bramble/partial/* 2>/dev/null | wc -c'; }
for _ in $(seq 600); do
    [ "$(partial)" -gt 20000000 ] && break
    kill -0 $operator 2>/dev/null || break
done
[ "$(partial)" -gt 20000000 ] || { cat killed.log; die "the push was never seen"; }
kill_operator $operator || die "the operator was gone"
wait $operator || true
[ "$(generation kitchen)" = "$before" ] || die "kitchen was changed"
ask kitchen
says "answered by kitchen"
"$lab" rate kitchen max
kept=$(partial)
[ "$kept" -gt 0 ] || die "nothing was kept"
sent=$(b apply --yes --json | jq '.hosts.kitchen.bytes_sent')
whole=$(on kitchen 'stat -L -c %s /var/lib/bramble/current/models/chat.gguf')
[ "$sent" -le $((whole - 20000000)) ] || die "$sent of $whole bytes were sent again"
ask kitchen
says F16
restore_manifest
run 0 apply --yes
