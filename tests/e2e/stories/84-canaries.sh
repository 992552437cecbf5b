# A secret of every kind, while all is applied over SSH and fetched from a hub: no process shows one, here or on the hosts,
# and no file, log, journal or plan has one but those that it belongs into, which are their owner's alone.
# shellcheck shell=bash disable=SC2154
token=hf_canaryCANARYcanaryCANARY
foreign=sk-canary-of-a-foreign-server
# what is typed before a command is in its environment, and in no other's
with() { HF_TOKEN=$token GAMING_KEY=$foreign "$@"; }
sed -i "s|^  desk: .*|&\n  gaming: { upstream: \"http://$LAB_SUBNET.1:1/v1\", key: env:GAMING_KEY, models: { chat: m } }|" fleet.yaml
edit 's/order: \[local, desk\]/order: [local, desk, gaming]/'
client=$(b keys add canary 2>/dev/null)
with run 0 apply --yes

# all of them, a line each: of keys in PEM their second line, which stands in no certificate
fleet_state=$(dirname "$(find "$work/state" -name keys.json)")
(
    umask 077
    {
        printf '%s\n' "$token" "$foreign" "$client" 'PRIVATE KEY-----'
        jq -er .operator_key "$fleet_state/keys.json"
        for host in kitchen shed; do on "$host" cat /var/lib/bramble/current/secrets.json | jq -er .identity.key | sed -n 2p; done
        jq -er .identity.key "$work/desk/current/secrets.json" | sed -n 2p
    } >"$work/secrets"
)
[ "$(grep -c ........ "$work/secrets")" = 8 ] || die "a secret is not known: $(cut -c -4 "$work/secrets" | xargs)"

# who shows one while it runs; the hosts' processes are this machine's, too
: >"$work/shown"
while kill -0 $$ 2>/dev/null && sleep 0.02; do
    for file in $(grep -slaFf "$work/secrets" /proc/[0-9]*/cmdline /proc/[0-9]*/environ); do
        echo "$(cat "${file%/*}/comm" 2>/dev/null || echo gone) ${file##*/}" >>"$work/shown"
    done
done &
watch=$!
sleep 1
edit 's/context: 1024 }/context: 768, quant: Q5_K_M }/'
with run 0 plan --json
planned=$said
with run 0 plan --out kept.json
RUST_LOG=trace with run 0 apply --yes
applied=$said
# a hub's token goes with what is fetched; what was fetched before is not asked for again
XDG_CACHE_HOME=$work/cache RUST_LOG=trace with run 0 fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct
fetched=$said
ask kitchen
run 0 status --json
run 0 logs
run 0 keys list --json
run 0 doctor
kill $watch || die "the watch has ended"
sort "$work/shown" | uniq -c
grep -q '^bramble environ$' "$work/shown" || die "the watch sees nothing"
found=0
# a program has the environment that it was given, and so have those through which it was called
shown=$(grep -vxE '(bramble|lab|ip|bash|env|gone) environ' "$work/shown" | sort -u || true)
[ -z "$shown" ] || found=$((found + 1))
printf '%s\n' "$planned" "$applied" "$fetched" "$said" >"$work/said"
if grep -aFf "$work/secrets" "$work/said"; then found=$((found + 1)); fi
rm "$work/said"

# where they lie; of a host's own SSH key nothing is ours
here=$(grep -rslaFf "$work/secrets" "$work" --exclude=secrets --exclude='*.log' | sed "s|^$work/||" | sort)
echo "$here"
strange=$(grep -vxE 'state/bramble/fleets/stories/(keys|authority)\.json|desk/generations/[0-9]+/secrets\.json' <<<"$here" || true)
[ -z "$strange" ] || found=$((found + 1))
grep -q '^state/.*/keys.json$' <<<"$here" && grep -q '^desk/.*/secrets.json$' <<<"$here" || die "they are not where they belong"
while read -r file; do
    [[ $(stat -c %a "$work/$file") == [4-7]00 ]] || { echo "$file: $(stat -c %a "$work/$file")" && found=$((found + 1)); }
done <<<"$here"
for host in kitchen shed; do
    there=$(on "$host" 'umask 077; cat >/root/.looked-for; grep -rslaFf /root/.looked-for -D skip --exclude=.looked-for --exclude="ssh_host_*" \
        /etc /home /opt /root /run /srv /tmp /usr/local /var; journalctl -o cat --no-pager | grep -qaFf /root/.looked-for && echo the journal; \
        rm /root/.looked-for' <"$work/secrets" | sort)
    echo "$host: ${there//$'\n'/ }"
    grep -q '^/var/lib/bramble/generations/.*secrets.json$' <<<"$there" || die "they are not where they belong on $host"
    more=$(grep -vxE '/var/lib/bramble/generations/[0-9]+/secrets\.json|/run/credentials/bramble-route\.service/.*' <<<"$there" || true)
    [ -z "$more" ] || strange+=" $host: $more" found=$((found + 1))
    # shellcheck disable=SC2086 # a word for each file
    [ -z "$(on "$host" find $there -perm /077)" ] || { strange+=" $host: others read them" && found=$((found + 1)); }
done
figure secrets_in_argv_env_logs_plans "$found"
[ "$found" = 0 ] || die "secrets are seen: ${shown//$'\n'/, } ${strange//$'\n'/ }"
b keys remove canary
restore_manifest
run 0 apply --yes
