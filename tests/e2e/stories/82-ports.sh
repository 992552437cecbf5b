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

# in the middle of an apply that takes its time: receivers listen, and say nothing to those who are not in the transfer
edit 's/context: 1024 }/context: 1024, quant: Q5_1 }/'
echo 'rollout: { bandwidth: { per_host: 0.5 MiB/s } }' >>fleet.yaml
b apply --yes >"$work/applied" 2>&1 &
applying=$!
before=$(found "${addresses[0]}" "$work/after")
more=
for _ in $(seq 600); do
    more=$(comm -13 <(echo "$before") <(listening kitchen) | xargs)
    if [ -n "$more" ] || [ ! -d /proc/$applying ]; then break; fi
    read -rt 0.1 <> <(:) || true
done
[ -n "$more" ] || die "no receiver listens on kitchen: $(cat "$work/applied")"
knock during --ask "${more// /,}" "${addresses[0]}"
now=$(listening kitchen)
[ "$(comm -13 <(echo "$before") <(echo "$now") | xargs)" = "$more" ] || die "the receiver has ended: $(cat "$work/applied")"
[ "$(found "${addresses[0]}" "$work/during")" = "$now" ] || die "kitchen listens on $(xargs <<<"$now")"
# nobody listens for an operator who is gone
stop_operator KILL $applying
wait $applying || true
for _ in $(seq 300); do
    if [ "$(listening kitchen)" = "$before" ]; then break; fi
    read -rt 0.2 <> <(:) || true
done
[ "$(listening kitchen)" = "$before" ] || die "the receiver listens still"
tail -n 1 "$work/after"
figure open_ports_without_key "$(sed -n 's/^open_ports_without_key = //p' "$work/after" "$work/during" | sort -n | tail -n 1)"
restore_manifest
run 0 apply --yes
