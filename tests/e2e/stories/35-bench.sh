# What a host was measured at is what the next plan counts on.
# shellcheck shell=bash
run 0 bench kitchen
says "kitchen"
says "chat"
rate=$(b bench kitchen --json | jq '.measured.kitchen.engines[0].answer')
awk -v rate="$rate" 'BEGIN { exit !(rate > 1) }' || die "the engine was measured at $rate"
speed=$(b plan --json | jq -r '.plan.hosts[] | select(.host == "kitchen") | .choices[0].speed')
[[ $speed == *measured* ]] || die "the plan goes by $speed"
run 0 apply --yes
run 0 plan --exit-code
ask kitchen
says "answered by kitchen"
