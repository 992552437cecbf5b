# A secret of every kind, while all is applied over SSH and fetched from a hub: no process shows one, here or on the hosts,
# and no file, log, journal or plan has one but those that it belongs into, which are their owner's alone.
# shellcheck shell=bash disable=SC2154
token=hf_canaryCANARYcanaryCANARY
foreign=sk-canary-of-a-foreign-server
# with WORDS...: what is typed before a command is in its environment, and in no other's; what it says is kept
with() {
    HF_TOKEN=$token GAMING_KEY=$foreign run 0 "$@"
    printf '%s\n' "$said" >>"$work/said"
}
: >"$work/said"
sed -i "s|^  desk: .*|&\n  gaming: { upstream: \"http://$LAB_SUBNET.1:1/v1\", key: env:GAMING_KEY, models: { chat: m } }|" fleet.yaml
edit 's/order: \[local, desk\]/order: [local, desk, gaming]/'
client=$(b keys add canary 2>/dev/null)
with apply --yes

# those that were given, and those that Bramble made, a line each: of keys in PEM their second line, which stands in no
# certificate
fleet_state=$XDG_STATE_HOME/bramble/fleets/stories
lines_of_keys() { jq -r '.. | strings | select(test("PRIVATE KEY"))' | sed -n '/PRIVATE KEY/{n;p}' | grep ........; }
(
    umask 077
    printf '%s\n' "$token" "$foreign" >"$work/given"
    {
        echo "$client"
        jq -er .operator_key "$fleet_state/keys.json"
        lines_of_keys <"$fleet_state/authority.json"
        for host in kitchen shed; do on "$host" cat /var/lib/bramble/current/secrets.json | lines_of_keys; done
        lines_of_keys <"$work/desk/current/secrets.json"
    } >"$work/made"
    cat "$work/given" "$work/made" >"$work/secrets"
)
[ "$(sort -u "$work/secrets" | grep -c ........)" -ge 8 ] || die "a secret is not known: there are $(wc -l <"$work/secrets")"
on kitchen grep -q "$foreign" /var/lib/bramble/current/secrets.json || die "the door has no use for the foreign key"

# who shows one while it runs; the hosts' processes are this machine's, too
: >"$work/shown"
while kill -0 $$ 2>/dev/null && sleep 0.02; do
    for list in given made; do
        { grep -slaFf "$work/$list" /proc/[0-9]*/cmdline /proc/[0-9]*/environ || true; } | while read -r file; do
            echo "$list $(cat "${file%/*}/comm" 2>/dev/null || echo gone) ${file##*/}" >>"$work/shown"
        done
    done
done &
watch=$!
trap 'kill $watch 2>/dev/null || true' EXIT
edit 's/context: 1024 }/context: 768, quant: Q5_K_M }/'
with plan --json
with plan --out kept.json
RUST_LOG=trace with apply --yes
# a hub's token goes with what is fetched; what was fetched before is not asked for again
XDG_CACHE_HOME=$work/cache RUST_LOG=trace with fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct
with chat kitchen --system 'Answer in one sentence.' 'What is the capital of France?'
with status --json
with logs
with keys list --json
with doctor
kill $watch || die "the watch has ended"
wait $watch || true
sort "$work/shown" | uniq -c
grep -q '^given bramble environ$' "$work/shown" || die "the watch sees nothing"
[ "$(wc -l <"$work/said")" -gt 100 ] || die "little was said: $(cat "$work/said")"

found=()
# a program has the environment that it was given, and so have those through which it was called here; what it starts has not
while read -r line; do
    [ -z "$line" ] || found+=("shown: $line")
done < <(grep -vxE 'given (bramble|lab|ip|bash|env|dirname|id|sed|gone) environ' "$work/shown" | sort -u)
while read -r line; do found+=("said: $line"); done < <(grep -aFf "$work/secrets" "$work/said" || true)

# where they lie: here
cd "$work" || exit
here=$({ grep -rslaFf secrets state desk fleet cache || true; } | sort)
cd "$work/fleet" || exit
for belongs in '^state/bramble/fleets/stories/keys.json$' '^state/bramble/fleets/stories/authority.json$' '^desk/.*/secrets.json$'; do
    grep -q "$belongs" <<<"$here" || die "nothing is at $belongs: $here"
done
while read -r file; do
    [[ $file =~ ^(state/bramble/fleets/stories/(keys|authority)\.json|desk/generations/[0-9]+/secrets\.json)$ ]] || found+=("here: $file")
    [ -z "$(find "$work/$file" -perm /077)" ] || found+=("others read $file")
done <<<"$here"
# and on the hosts, where systemd shows the door its own copy
for host in kitchen shed; do
    there=$(on "$host" 'umask 077; cat >/root/.looked-for; grep -rslaFf /root/.looked-for -D skip --exclude=.looked-for /etc /home /opt /root \
        /run /srv /tmp /usr/local /var; journalctl -o export --no-pager | grep -qaFf /root/.looked-for && echo the journal; \
        rm /root/.looked-for' <"$work/secrets" | sort)
    grep -q '^/var/lib/bramble/generations/.*secrets.json$' <<<"$there" || die "they are not where they belong on $host: $there"
    while read -r file; do
        case $file in
        /var/lib/bramble/generations/*/secrets.json) [ -z "$(on "$host" find "$file" -perm /077)" ] || found+=("others read $host: $file") ;;
        /run/credentials/bramble-route.service/*) [ -z "$(on "$host" find "$file" -perm /007)" ] || found+=("others read $host: $file") ;;
        *) found+=("$host: $file") ;;
        esac
    done <<<"$there"
    echo "$host: ${there//$'\n'/ }"
done
figure secrets_in_argv_env_logs_plans "${#found[@]}"
[ ${#found[@]} = 0 ] || die "secrets are seen: $(printf '%s; ' "${found[@]}")"
rm -rf "$work/said" "$work/cache" "$work"/{given,made,secrets}
b keys remove canary
restore_manifest
run 0 apply --yes
