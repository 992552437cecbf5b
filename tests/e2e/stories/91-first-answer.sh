# From nothing but a login to an answer, in as few commands as there are: what `scripts/figures experience` counts.
# shellcheck shell=bash disable=SC2154
# The model that `init` takes is not at the double of the hub, which has one: the edit is the test's, and is not counted.
mkdir -p "$work/first"
cd "$work/first" || die "no folder"
address=$("$lab" ip kitchen)
begun=$(date +%s.%N)
commands=0
# typed ARGUMENTS...: one command of a user, with caches and keys of its own
typed() {
    commands=$((commands + 1))
    said=$("$lab" exec env XDG_CACHE_HOME="$work/first/cache" XDG_STATE_HOME="$work/first/state" "$bramble" "$@" 2>&1 </dev/null) ||
        die "bramble $*: $said"
    printf '$ bramble %s\n%s\n' "$*" "$said"
}
typed init --host "pi@$address" --no-desktop --yes
sed -i 's/source: .*/source: catalog:smollm2-135m-instruct/' fleet.yaml
typed apply --yes
host=$(sed -n 's/^  \([a-z0-9-]*\): { address: .*/\1/p' fleet.yaml | head -n 1)
typed chat "$host" --system 'Answer in one sentence.' 'What is the capital of France?'
figure seconds_to_first_answer "$(awk -v a="$begun" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')"
figure commands_to_first_answer "$commands"
says Paris
typed remove --all --yes
on kitchen test ! -e /var/lib/bramble || die "something is left"
