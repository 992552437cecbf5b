# Nothing listens without a key: every port of every host is tried after an apply, and again in the middle of one, when
# hosts give weights to each other.
# shellcheck shell=bash disable=SC2154
run 0 apply --yes
addresses=("$("$lab" ip kitchen)" "$("$lab" ip shed)" "$LAB_SUBNET.1")
key=$(b keys add scanner 2>/dev/null)
run 0 apply --yes

# listening HOST: the ports that others can reach, as the host itself says; of UDP there shall be none
listening() {
    local in=(on "$1")
    [ "$1" != desk ] || in=("$lab" exec)
    [ -z "$("${in[@]}" ss -Hlnu | awk '$4 !~ /^(127\.|\[::1\])/')" ] || die "$1 listens to UDP: $("${in[@]}" ss -Hlnu)"
    "${in[@]}" ss -Hlnt | awk '$4 !~ /^(127\.|\[::1\])/ { sub(/.*:/, "", $4); print $4 }' | sort -u
}
found() { sed -n "s/^open $1 \([0-9]*\).*/\1/p" "$2" | sort -u; }
knock() { # LOG ARGUMENTS...
    "$lab" exec "$repo/tests/e2e/knock" "${@:2}" >"$work/$1" || { cat "$work/$1" && die "something answers without a key"; }
    cat "$work/$1"
}

# what it says of something that is open
# shellcheck disable=SC2016 # it is the inner shell that expands this
"$lab" exec sh -c 'echo $$ >"$1/open" && exec python3 -m http.server --bind "$2" --directory "$1/fleet" 8000' \
    sh "$work" "$LAB_SUBNET.1" >/dev/null 2>&1 &
trap 'kill "$(cat "$work/open")" 2>/dev/null || true' EXIT
until "$lab" exec curl -s -o /dev/null "http://$LAB_SUBNET.1:8000/"; do [ -d /proc/$! ] || die "nothing is open"; done
if "$lab" exec "$repo/tests/e2e/knock" --only 8000 "$LAB_SUBNET.1" >"$work/planted"; then die "it finds nothing open: $(cat "$work/planted")"; fi
grep -q "^answers $LAB_SUBNET.1 8000 GET http://$LAB_SUBNET.1:8000/ .*(200, " "$work/planted" ||
    die "it does not say what: $(cat "$work/planted")"
kill "$(cat "$work/open")"
wait $! || true

knock after --key "$key" "${addresses[@]}"
for ((i = 0; i < 3; i++)); do
    host=$(set -- kitchen shed desk && shift $i && echo "$1")
    [ "$(found "${addresses[i]}" "$work/after")" = "$(listening "$host")" ] ||
        die "$host listens on $(listening "$host" | xargs), and $(found "${addresses[i]}" "$work/after" | xargs) were found"
    [ "$(grep -c "^key ${addresses[i]} .* opens$" "$work/after")" = 1 ] || die "its door is not among what was asked of $host"
    [ "$(grep -vc ' ssh$' <(grep "^open ${addresses[i]} " "$work/after"))" = 1 ] || die "something beside the door listens on $host"
done

# In the middle of an apply that takes its time, one host has weights from the other: the receiver there listens, and says
# nothing to those who are not in the transfer. Which of them gives depends on who joined first.
edit 's/context: 1024 }/context: 1024, quant: Q5_1 }/'
echo 'rollout: { bandwidth: { per_host: 0.5 MiB/s } }' >>fleet.yaml
b apply --yes >"$work/applied" 2>&1 &
applying=$!
beside() { comm -13 <(found "$2" "$work/after") <(listening "$1") | xargs; } # HOST ADDRESS: ports that were not open before
takes() { # HOST ADDRESS: of the ports of another host, that at which this one has something from it
    on "$1" ss -Hnt state established | awk -v from="$2" '{ split($4, peer, ":") } peer[1] == from && peer[2] != 8443 { print peer[2] }'
}
more=
while [ -z "$more" ] && [ -d /proc/$applying ]; do
    for pair in "kitchen shed ${addresses[0]}" "shed kitchen ${addresses[1]}"; do
        read -r giver taker address <<<"$pair"
        more=$(takes "$taker" "$address")
        if [ -n "$more" ]; then break; fi
    done
done
[ -n "$more" ] || die "no host has weights from the other: $(tail -n 20 "$work/applied")"
knock during --ask "$more" "$address"
[ "$(beside "$giver" "$address")" = "$more" ] || die "the receiver has ended: $(tail -n 20 "$work/applied")"
now=$(listening "$giver")
[ "$(found "$address" "$work/during")" = "$now" ] || die "$giver listens on $(xargs <<<"$now")"
# nobody listens for an operator who is gone
stop_operator KILL $applying
wait $applying || true
for _ in $(seq 300); do
    if [ -z "$(beside "$giver" "$address")" ]; then break; fi
    read -rt 0.2 <> <(:) || true
done
[ -z "$(beside "$giver" "$address")" ] || die "the receiver listens still"
tail -n 1 "$work/after"
figure open_ports_without_key "$(sed -n 's/^open_ports_without_key = //p' "$work/after" "$work/during" | sort -n | tail -n 1)"
restore_manifest
run 0 apply --yes
