# Keys and certificates change without a moment in which nobody comes in, and a host that was lost is refused.
# shellcheck shell=bash disable=SC2154
"$lab" up ct attic loft
"$lab" known >"$work/known_hosts"
mkdir -p attic
cat >attic/fleet.yaml <<END
bramble: 1
fleet: attic
defaults: { ssh: { user: pi } }
models:
  chat: { source: "hf:HuggingFaceTB/SmolLM2-135M-Instruct", context: 512 }
hosts:
  attic: { address: $("$lab" ip attic) }
  loft: { address: $("$lab" ip loft) }
deploy:
  - { model: chat, on: [attic, loft] }
END
a() { # EXIT ARGUMENTS...
    local want=$1
    shift
    run "$want" -f attic/fleet.yaml "$@"
}
asked() { # KEY: the status for who shows it
    "$lab" exec curl -s -o /dev/null -w '%{http_code}' --cacert attic/ca.pem --connect-to "::$("$lab" ip attic):" \
        -H "Authorization: Bearer $1" https://attic.attic.internal:8443/v1/models || true
}
opens() { [ "$(asked "$1")" = 200 ] || die "$2 is not let in: $(asked "$1")"; }
opens_not() { [ "$(asked "$1")" != 200 ] || die "$2 is let in"; }

a 0 apply --yes
b -f attic/fleet.yaml keys ca >attic/ca.pem
a 0 plan --exit-code
one=$(b -f attic/fleet.yaml keys add phone --requests-per-minute 600 2>/dev/null)
opens_not "$one" "a key that no host knows yet"
a 2 plan --exit-code
says "the fleet's keys or certificates have changed since"
a 0 apply --yes
a 0 plan --exit-code
opens "$one" "the new key"
engine=$(on attic systemctl show -P MainPID bramble-engine-chat)

two=$(b -f attic/fleet.yaml keys rotate phone 2>/dev/null)
a 0 apply --yes
opens "$one" "the old key beside the new one"
opens "$two" "the key that takes its place"
a 0 keys remove phone --old
a 0 apply --yes
opens_not "$one" "the old key"
opens "$two" "the key that took its place"
[ "$(on attic systemctl show -P MainPID bramble-engine-chat)" = "$engine" ] || die "the engine was started anew for keys"
a 0 keys list
says "phone"
says_not "$two"

# a card that was stolen: after one apply, what is on it opens nothing at the other, and nobody has logged in to it
on attic cat /var/lib/bramble/current/secrets.json >attic/card.json
jq -r .identity.certificate attic/card.json >attic/card.pem
jq -r .identity.key attic/card.json >attic/card.key
by_the_card() { # the status at the other host for who shows the card's certificate
    "$lab" exec curl -s -o /dev/null -w '%{http_code}' --cacert attic/ca.pem --cert attic/card.pem --key attic/card.key \
        --connect-to "::$("$lab" ip loft):" https://loft.attic.internal:8443/v1/models || true
}
at_loft() { # [KEY]: the status at the other host for who shows it
    "$lab" exec curl -s -o /dev/null -w '%{http_code}' --cacert attic/ca.pem --connect-to "::$("$lab" ip loft):" \
        -H "Authorization: Bearer ${1:-$two}" https://loft.attic.internal:8443/v1/models || true
}
logins() { on attic "journalctl --unit ssh --no-pager | grep -c 'Accepted publickey for pi'"; }
[ "$(by_the_card)" = 200 ] || die "the host itself is not let in: $(by_the_card)"
# what the operator has shown it opens no other either
operator() { jq -r .operator_key "$XDG_STATE_HOME/bramble/fleets/attic/keys.json"; }
seen=$(operator)
[ "$(at_loft "$seen")" = 200 ] || die "the operator is not let in: $(at_loft "$seen")"
a 0 keys revoke-host attic
says "phone"
before=$(logins)
a 2 plan --exit-code
a 2 apply --yes
says 'bramble keys readmit attic'
[ "$(logins)" = "$before" ] || die "somebody logged in to a host that was stolen"
[ "$(by_the_card)" = 000 ] || die "the card is let in: $(by_the_card)"
# it is the card that is refused, by a door that is open
[ "$(at_loft)" = 200 ] || die "the other host lets nobody in: $(at_loft)"
[ "$(at_loft "$seen")" = 401 ] || die "the key that the stolen host was shown is let in: $(at_loft "$seen")"
[ "$(at_loft "$(operator)")" = 200 ] || die "the operator's key of now is not let in: $(at_loft "$(operator)")"

# nor by a host that goes back to what it ran before that
a 0 rollback loft --yes
[ "$(by_the_card)" = 000 ] || die "a host that went back lets the card in: $(by_the_card)"
[ "$(at_loft)" = 200 ] || die "a host that went back lets nobody in: $(at_loft)"

# it is back: another certificate, by the same authority
a 0 keys readmit attic
a 2 plan --exit-code
a 0 apply --yes
a 0 plan --exit-code
[ "$(by_the_card)" = 000 ] || die "the card is let in again: $(by_the_card)"
[ "$(at_loft)" = 200 ] || die "the other host lets nobody in: $(at_loft)"
opens "$two" "a client that trusts the fleet"
a 0 chat attic 'Say yes.' --max-tokens 4
# trust that is founded anew: what trusted the old one does not come in
a 0 apply --yes --new-ca
a 0 plan --exit-code
[ "$(asked "$two")" = 000 ] || die "the old authority is trusted still"
b -f attic/fleet.yaml keys ca >attic/ca.pem
opens "$two" "a client that was given the new one"
a 0 chat attic 'Say yes.' --max-tokens 4
a 0 remove --all --yes
"$lab" down attic loft
