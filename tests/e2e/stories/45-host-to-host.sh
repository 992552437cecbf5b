# Weights that two hosts want leave this machine for them once; the second has them from the first. Where they do not
# reach each other, that is known before anything is sent, and each has its own copy.
# shellcheck shell=bash
edit 's/context: 1024 }/context: 1024, quant: Q5_0 }/'
b apply --yes --json >applied.json
jq -e '[.hosts[].state.state] | all(. == "done")' applied.json || die "not everywhere: $(cat applied.json)"
jq '.hosts | map_values({ bytes_sent, bytes_from_hosts })' applied.json
between=$(jq '.hosts.kitchen.bytes_from_hosts + .hosts.shed.bytes_from_hosts' applied.json)
sent=$(jq '.hosts.kitchen.bytes_sent + .hosts.shed.bytes_sent' applied.json)
# what leaves this machine is packed where its wire is slow
[ "$between" -gt 50000000 ] && [ "$sent" -le "$between" ] || die "$sent bytes were sent to the hosts, $between between them"
ask kitchen
says Paris
ask shed
says Paris
for host in kitchen shed; do
    if on "$host" pgrep -f "'brambled [r]eceive'"; then die "$host still listens for others"; fi
done
"$lab" apart kitchen shed
edit 's/quant: Q5_0/quant: Q4_1/'
code=0
b apply --yes --json >applied.json 2>events.json || code=$?
"$lab" together kitchen shed
[ $code = 0 ] || die "apply ended with $code: $(cat events.json)"
jq -e '[.hosts[].state.state] | all(. == "done")' applied.json || die "not everywhere: $(cat applied.json)"
jq -e '.hosts | [.kitchen, .shed] | all(.bytes_from_hosts == 0 and .bytes_sent > 40000000)' applied.json ||
    die "not a copy for each: $(jq '.hosts | map_values({ bytes_sent, bytes_from_hosts })' applied.json)"
jq -r 'select(.event == "note").text' events.json | grep 'kitchen, shed reach no other host that could give chat' ||
    die "it does not say why: $(cat events.json)"
ask shed
says Paris
restore_manifest
run 0 apply --yes
