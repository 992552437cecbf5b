# A changed manifest changes what it must and nothing else; again changes nothing; rollback goes back.
# shellcheck shell=bash
before=$(generation kitchen) shed=$(generation shed) desk=$(generation desk)
edit 's/context: 1024/context: 768/'
run 2 plan --exit-code
says "context 1024"
says "context 768"
run 0 apply --yes
[ "$(generation kitchen)" = $((before + 1)) ] || die "kitchen is at $(generation kitchen)"
run 0 apply --yes
says "Nothing to do"
[ "$(generation kitchen)" = $((before + 1)) ] || die "a second apply changed something"
# nothing was sent again: the weights are the same
sent=$(b apply --yes --json | jq '[.hosts[].bytes_sent] | add // 0')
[ "$sent" = 0 ] || die "$sent bytes were sent"
run 0 rollback --yes
[ "$(generation kitchen)" = "$before" ] || die "rollback went to $(generation kitchen)"
[ "$(generation shed)" = "$shed" ] && [ "$(generation desk)" = "$desk" ]
restore_manifest
run 0 plan --exit-code
ask shed
says Paris
