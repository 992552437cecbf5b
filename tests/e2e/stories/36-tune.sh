# Other quants are tried on the host itself, and it is left as it was.
# shellcheck shell=bash
run 0 apply --yes
before=$(generation kitchen)
run 0 tune kitchen -q Q4_0 --yes
says "Q8_0 (now)"
says "bits/byte"
says "is "
[ "$(generation kitchen)" = "$before" ] || die "kitchen is at $(generation kitchen), not at $before"
run 0 plan --exit-code
tuned=$(b tune kitchen -m chat -q Q4_0,Q4_K_M --yes --json 2>/dev/null)
bits() { jq -r --arg q "$1" '.[0].trials[] | select(.quant == $q) | .measured.bits_per_byte' <<<"$tuned"; }
# four bits a weight lose more than eight
awk -v eight="$(bits Q8_0)" -v four="$(bits Q4_0)" 'BEGIN { exit !(eight > 0.2 && four > eight && four < eight * 1.5) }' ||
    die "Q8_0 takes $(bits Q8_0) bits for a byte, Q4_0 $(bits Q4_0)"
awk -v mixed="$(bits Q4_K_M)" 'BEGIN { exit !(mixed + 0 > 0.2) }' || die "Q4_K_M was not measured: $tuned"
run 0 apply --yes
says "Nothing to do"
ask kitchen
says "answered by kitchen"
