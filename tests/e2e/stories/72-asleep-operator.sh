# An operator falls asleep in the middle of an apply, and another one applies meanwhile. When the first
# one wakes it can write nothing more.
# shellcheck shell=bash
edit 's/, context: 1024/, context: 1024, quant: Q6_K/; s/on: { role: pi }/on: [kitchen]/'
"$lab" rate kitchen 160mbit
b apply --yes --json >asleep.json 2>asleep.log &
operator=$!
for _ in $(seq 600); do
    [ "$(on kitchen 'cat /var/lib/bramble/partial/* 2>/dev/null | wc -c')" -gt 20000000 ] && break
    kill -0 $operator 2>/dev/null || break
done
around=$operator,$(pgrep -d, -P $operator) || around=$operator
sleeper=$(pgrep -x -P "$around" bramble) || { cat asleep.log; die "the push was never seen"; }
# shellcheck disable=SC2046 # one word for each process
kill -STOP "$sleeper" $(pgrep -P "$sleeper")
asleep=$SECONDS
"$lab" rate kitchen max
mkdir "$work/bob"
cp bramble.lock "$work/bob/"
manifest | sed 's/context: 1024/context: 768/' >"$work/bob/fleet.yaml"
said=$(cd "$work/bob" && USER=bob b apply --yes 2>&1) || die "bob's apply failed: $said"
printf '%s\n' "$said"
says "waiting to see whether it is still at work"
successors=$(generation kitchen)
while [ $((SECONDS - asleep)) -lt 60 ]; do sleep 1; done
# shellcheck disable=SC2046
kill -CONT "$sleeper" $(pgrep -P "$sleeper")
if wait $operator; then die "it wrote over its successor: $(cat asleep.json)"; fi
cat asleep.log
jq .hosts asleep.json
jq -e '.hosts.kitchen.state | .state == "locked" and (.said | startswith("bob@"))' asleep.json || die "kitchen was not kept from it"
[ "$(generation kitchen)" = "$successors" ] || die "kitchen was changed"
blobs=$(on kitchen 'ls /var/lib/bramble/blobs/sha256 | wc -l')
[ "$blobs" = 1 ] || die "$blobs blobs are on kitchen"
(cd "$work/bob" && run 0 plan --exit-code)
rm -r "$work/bob"
restore_manifest
run 0 apply --yes
ask kitchen
says Paris
