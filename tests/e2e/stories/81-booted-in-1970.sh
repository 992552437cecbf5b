# A host without a clock: it boots in 1970, with a kernel of its own, and stays there. It serves, reaches its fallback, is
# told from one whose clock is right, and can be applied to; then its clock is set while it serves.
# shellcheck shell=bash disable=SC2154
"$lab" can uml || skip "user-mode Linux, which has the kernel of its own, does not run on this processor"
"$repo/tests/lab/install-deps" uml
"$lab" up uml porch
"$lab" up ct hall
"$lab" known >"$work/known_hosts"
python3 "$repo/tests/reference/random_model.py" "$work/tiny" --layers 4 --hidden 512 --inner 1024 --vocab 4096
mkdir -p gable
cat >gable/fleet.yaml <<END
bramble: 1
fleet: gable
defaults: { ssh: { user: pi } }
serve: { port: 8443, tls: fleet }
models:
  chat: { source: "file:$work/tiny", context: 512, quant: Q8_0 }
hosts:
  porch: { address: $("$lab" ip porch) }
  hall: { address: $("$lab" ip hall) }
deploy:
  - { model: chat, on: [porch, hall] }
routes:
  chat: { order: [local, hall, porch] }
END
g() { # EXIT ARGUMENTS...
    local want=$1
    shift
    run "$want" -f gable/fleet.yaml "$@"
}
# what systemd and the kernel make of a missing clock is undone before anything else starts
on porch "cat >/etc/systemd/system/no-clock.service && systemctl enable --quiet --now no-clock" <<'END'
[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/date --set=1970-01-01T00:01:00Z
[Install]
WantedBy=sysinit.target
END
year() { on porch date --utc +%Y; }
is_1970() { [ "$(year)" = 1970 ] || die "it is $(year) on porch"; }
asked_at_its_door() { # by a program that has nothing but the fleet's certificate and a key
    "$lab" exec curl -s -o /dev/null -w '%{http_code}' --cacert gable/ca.pem --connect-to "::$("$lab" ip porch):" \
        -H "Authorization: Bearer $key" https://porch.gable.internal:8443/v1/models || true
}

is_1970
g 0 apply --yes
key=$(grep -o 'bramble-[0-9a-f]\{64\}' <<<"$said")
b -f gable/fleet.yaml keys ca >gable/ca.pem
is_1970

boot=$(on porch cat /proc/sys/kernel/random/boot_id)
on porch systemctl reboot || true
for _ in $(seq 300); do
    now=$(on porch cat /proc/sys/kernel/random/boot_id 2>/dev/null || true)
    if [ -n "$now" ] && [ "$now" != "$boot" ]; then break; fi
    read -rt 0.2 <> <(:) || true
done
case $now in '' | "$boot") die "porch did not boot again" ;; esac
is_1970
for _ in $(seq 300); do
    if b -f gable/fleet.yaml chat porch Hello --max-tokens 4 --json | jq -e '.host == "porch"' >/dev/null; then break; fi
    read -rt 0.2 <> <(:) || true
done
for unit in bramble-route bramble-engine-chat; do
    started=$(on porch env TZ=UTC systemctl show -P ExecMainStartTimestamp $unit)
    [[ $started == *1970* ]] || die "$unit was started at $started"
done
g 0 chat porch Hello --max-tokens 4
says "answered by porch"
[ "$(asked_at_its_door)" = 200 ] || die "a client that trusts the fleet is not let in: $(asked_at_its_door)"

# its fallback, by the certificates of both
on porch systemctl stop bramble-engine-chat
g 0 chat porch Hello --max-tokens 4
says "answered by hall"
says "not the first choice: local:"
g 0 status
says "its clock is"
says "behind this machine's"
b -f gable/fleet.yaml status --json |
    jq -e '.hosts[] | select(.host == "porch") | .door == "open" and (.warnings | length) == 1' >/dev/null ||
    die "porch's door is not open, or there is another warning"
# apply mends it in 1970, and has nothing to do after that
g 2 plan --exit-code
g 0 apply --yes
g 0 plan --exit-code
g 0 apply --yes
says "Nothing to do"
g 0 chat porch Hello --max-tokens 4
says "answered by porch"
# the other way: it proves itself to one whose clock is right
on hall systemctl stop bramble-engine-chat
g 0 chat hall Hello --max-tokens 4
says "answered by porch"
g 0 apply --yes
is_1970

# the time comes while it serves
on porch "date --set=@$(date +%s)" >/dev/null
[ "$(year)" = "$(date --utc +%Y)" ] || die "porch has no time"
g 0 chat porch Hello --max-tokens 4
says "answered by porch"
[ "$(asked_at_its_door)" = 200 ] || die "a client is not let in once the clock is right: $(asked_at_its_door)"
g 0 status
says_not "its clock is"
g 0 plan --exit-code
g 0 remove --all --yes
"$lab" down porch hall
