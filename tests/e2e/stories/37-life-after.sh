# What people do between applies: look at logs, start an engine anew, clear up.
# shellcheck shell=bash
run 0 logs kitchen -n 3
says "kitchen route | "
says "kitchen engine-chat | "
run 0 logs shed desk -m chat -n 1 # one of systemd's journal, one of our own supervisor
says "shed engine-chat | "
says "desk engine-chat | "
says_not "route"
services=$(b logs --json -n 2 | jq -r '[.host, .service] | join(" ")' | sort -u | wc -l)
[ "$services" = 6 ] || die "lines of $services services of 3 hosts"

# whoever follows hears what comes, and leaves nothing behind on the host
b logs kitchen --door -n 0 --follow >followed &
following=$!
sleep 3
on kitchen systemctl restart bramble-route
for _ in $(seq 50); do
    [ ! -s followed ] || break
    sleep 0.2
done
for pid in $(pgrep -f "^$bramble logs kitchen"); do kill "$pid"; done
wait "$following" || true
grep -q "kitchen route | " followed || die "nothing was heard: $(cat followed)"
for _ in $(seq 50); do
    on kitchen "pgrep -f 'brambled log[s]|[j]ournalctl --quiet'" >reading || break
    sleep 0.2
done
[ ! -s reading ] || die "something still reads the log there: $(cat reading)"

engine=$(on kitchen systemctl show -P MainPID bramble-engine-chat) door=$(on kitchen systemctl show -P MainPID bramble-route)
run 0 restart kitchen -m chat
says "Started anew: 1 host."
says "measured chat"
[ "$(on kitchen systemctl show -P MainPID bramble-engine-chat)" != "$engine" ] || die "it is the same process"
[ "$(on kitchen systemctl show -P MainPID bramble-route)" = "$door" ] || die "the door is another process"
run 1 restart kitchen -m writer
says "none of these hosts serves writer: they serve chat"
run 0 restart desk
ask desk
says "answered by desk"
run 0 plan --exit-code

# two generations are there now, and a file that belongs to neither
edit 's/context: 1024/context: 512/'
run 0 apply --yes
on kitchen 'echo old >/var/lib/bramble/blobs/sha256/0000000000000000000000000000000000000000000000000000000000000000'
run 0 prune kitchen --dry-run
says "1 file of weights"
run 3 prune kitchen </dev/null
run 0 prune kitchen --yes
says "4 B"
run 0 prune kitchen --yes
says "nothing that is not needed"
run 0 rollback kitchen --yes # what is gone back to was kept
restore_manifest
run 0 apply --yes
run 0 plan --exit-code
