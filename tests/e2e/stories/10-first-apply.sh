# From a manifest to an answer: nothing is on the hosts, and at the end both answer.
# shellcheck shell=bash disable=SC2154
run 0 check
run 2 plan --exit-code
says "+ kitchen"
run 3 apply </dev/null # nobody to ask, and no --yes
says "nothing was changed"
on kitchen test ! -e /var/lib/bramble
run 0 apply --yes
says "Applied: 3 hosts"
says "shown this once"

# the quants differ, for the reason that the plan prints
run 0 plan
says "Nothing to do"
large=$(b plan --json | jq -r '.plan.hosts[] | select(.host == "kitchen") | .choices[0].quant')
small=$(b plan --json | jq -r '.plan.hosts[] | select(.host == "shed") | .choices[0].quant')
[ "$large" = Q8_0 ] || die "the large host got $large"
[ "$small" != "$large" ] || die "both hosts got $small"

for host in kitchen shed; do
    ask "$host"
    says Paris
    says "answered by $host"
done
# only the hosts' own units, and none runs as root
on kitchen systemctl is-active bramble-route bramble-engine-chat
runs_as() { on kitchen "ps -o user= -p \$(systemctl show -P MainPID bramble-$1)"; }
[ "$(runs_as engine-chat)" = bramble ] || die "the engine runs as $(runs_as engine-chat)"
[[ $(runs_as route) != @(|root|bramble) ]] || die "the door runs as $(runs_as route)"
# the door was given its secrets; an engine, which reads what strangers have made, cannot read them
[ "$(on kitchen stat -L -c %U:%a /var/lib/bramble/current/secrets.json)" = root:600 ] || die "others may read the secrets"
on kitchen 'setpriv --reuid bramble --regid bramble --clear-groups cat /var/lib/bramble/current/secrets.json' &&
    die "the user of the services can read the secrets"
# a client that trusts the fleet knows the host by its name, whatever its address, and gets nothing without a key
b keys ca >ca.pem
ip=$("$lab" ip kitchen)
asked() { # URL ARGUMENTS...: the status
    local url=$1
    shift
    "$lab" exec curl -s -o /dev/null -w '%{http_code}' --cacert ca.pem "$@" "$url" || true
}
name=kitchen.stories.internal
code=$(asked "https://$name:8443/v1/models" --connect-to "::$ip:")
[ "$code" = 401 ] || die "without a key the door answered $code"
key=$(jq -r .operator_key "$XDG_STATE_HOME/bramble/fleets/stories/keys.json")
code=$(asked "https://$name:8443/v1/models" --connect-to "::$ip:" -H "Authorization: Bearer $key")
[ "$code" = 200 ] || die "with a key the door answered $code"
# another host of the fleet is not taken for it, and nothing is done in plain
code=$(asked "https://shed.stories.internal:8443/v1/models" --connect-to "::$ip:" -H "Authorization: Bearer $key")
[ "$code" = 000 ] || die "kitchen was taken for shed: $code"
code=$(asked "http://$ip:8443/v1/models" -H "Authorization: Bearer $key")
[ "$code" = 400 ] || die "in plain the door answered $code"
