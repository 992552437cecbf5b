# Clients ask without end while a model, a route, and the program itself are updated: every answer comes, whole.
# shellcheck shell=bash disable=SC2154
one_thread_each
b keys ca >"$work/ca.pem"
client_key=$(jq -r .operator_key "$XDG_STATE_HOME/bramble/fleets/stories/keys.json")

# ask_door NAME TOKENS: a stream of that length from kitchen's door; writes its status, and whether it was whole
ask_door() {
    local body=$work/answer.$1 status
    status=$("$lab" exec curl -sS --max-time 120 --cacert "$work/ca.pem" --connect-to "::$("$lab" ip kitchen):" \
        -H "Authorization: Bearer $client_key" -o "$body" -w '%{http_code}' \
        -d '{"model":"chat","stream":true,"temperature":0,"max_tokens":'"$2"',"messages":[{"role":"user","content":"Count to one hundred."}]}' \
        https://kitchen.stories.internal:8443/v1/chat/completions 2>>"$work/asking.errors") || status="$status!"
    if [ "$(grep -c '^data: \[DONE\]' "$body")" != 1 ] || grep -q '^data: {"error"' "$body"; then
        status="$status cut off: $(tail -c 200 "$body" | tr '\n' ' ')"
    fi
    echo "$status" >>"$work/asked.$1"
}
asker() { while [ -e "$work/asking" ]; do ask_door "$1" 16; done; }

# under_load WHAT COMMAND...: runs it while two ask without end, and one reads a long answer from its beginning
under_load() {
    local what=$1 pids=() count
    shift
    rm -f "$work"/asked.* "$work/asking.errors"
    touch "$work/asking"
    asker one & pids+=($!)
    asker two & pids+=($!)
    ask_door long 300 & pids+=($!)
    "$@"
    ask_door after 16
    rm "$work/asking"
    wait "${pids[@]}"
    count=$(cat "$work"/asked.* | wc -l)
    if grep -hvx 200 "$work"/asked.*; then
        cat "$work/asking.errors"
        die "requests failed while $what was updated"
    fi
    [ "$count" -ge 4 ] || die "only $count answers while $what was updated"
    echo "$what: $count answers, 0 failed"
}

edit 's/context: 1024/context: 768/'
under_load "a model" run 0 apply --yes
edit 's/order: \[local, desk\]/order: [desk, local]/'
under_load "a route" run 0 apply --yes

door() { on kitchen systemctl show -P MainPID bramble-route; }
before=$(door) restarts=$(on kitchen systemctl show -P NRestarts bramble-route)
other_bundle "$work/newer" 'echo newer >note'
ours=$BRAMBLE_BUNDLES
export BRAMBLE_BUNDLES=$work/newer
under_load "the program" run 0 apply --yes
export BRAMBLE_BUNDLES=$ours
[ "$(door)" != "$before" ] || die "the door still runs the old program"
[ "$(on kitchen systemctl show -P NRestarts bramble-route)" = "$restarts" ] || die "the door ended in between"
on kitchen journalctl -u bramble-route --no-pager | grep -F "another program takes requests" || die "it did not hand over"
for _ in $(seq 100); do # the old one has nothing to finish any more
    [ "$(on kitchen pgrep -c -f "'brambled route'")" != 1 ] || break
    read -rt 0.1 <> <(:) || true
done
[ "$(on kitchen pgrep -c -f "'brambled route'")" = 1 ] || die "more than one door is left"
run 0 status
says_not "another program"

# a door that dies: who asks meanwhile waits, and is not refused
# shellcheck disable=SC2016 # the shell of the host expands this
on kitchen 'kill -KILL "$(systemctl show -P MainPID bramble-route)"'
rm -f "$work"/asked.*
ask_door killed 16
[ "$(cat "$work/asked.killed")" = 200 ] || die "after its door was killed: $(cat "$work/asked.killed")"

restore_manifest
under_load "everything back" run 0 apply --yes
run 0 plan --exit-code

# the same on a host that has nobody to fall back to, where requests wait
edit 's/order: \[local, desk\]/order: [local]/'
run 0 apply --yes
edit 's/context: 1024/context: 768/'
under_load "a model, without a fallback" run 0 apply --yes
export BRAMBLE_BUNDLES=$work/newer
under_load "the program, without a fallback" run 0 apply --yes
export BRAMBLE_BUNDLES=$ours
restore_manifest
run 0 apply --yes
run 0 plan --exit-code
