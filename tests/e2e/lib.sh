# What the stories use; sourced by tests/e2e/run after scripts/lib.sh.
# shellcheck shell=bash

export LAB_NET=${LAB_NET:-e2e} LAB_SUBNET=${LAB_SUBNET:-10.76.0}
work=

# How a story ends that cannot be played here.
skipped=77

# skip WHY: ends a story that cannot be played on this machine.
skip() {
    echo "$1"
    exit "$skipped"
}

# Brings up kitchen (a Pi 5 with 8 GB), shed (a Pi 4 with 1 GB, 220 MiB of it free) and the hub.
# All of it goes away when the script ends.
fleet_up() {
    work=$(mktemp -d /tmp/bramble-e2e.XXXXXX)
    on_exit "rm -rf $work"
    "$repo/scripts/checkpoint" "$checkpoints" >/dev/null
    "$lab" down
    lab_up kitchen shed
    "$lab" look kitchen pi5-8gb
    "$lab" look shed pi4-1gb-220mib
    "$lab" known >"$work/known_hosts"
    start_agent
    start_hub_double "$checkpoints"
    export BRAMBLE_KNOWN_HOSTS=$work/known_hosts XDG_STATE_HOME=$work/state
    mkdir "$work/fleet"
    manifest >"$work/fleet/fleet.yaml"
    cd "$work/fleet"
    on_exit "cd / && $lab exec $bramble -f $work/fleet/fleet.yaml remove --all --yes >/dev/null 2>&1"
}

# The manifest that the stories begin with and come back to.
manifest() {
    cat <<END
bramble: 1
fleet: stories
defaults: { ssh: { user: pi } }
models:
  chat: { source: "hf:HuggingFaceTB/SmolLM2-135M-Instruct", context: 1024 }
hosts:
  kitchen: { address: $("$lab" ip kitchen) }
  shed: { address: $("$lab" ip shed) }
  desk: { address: $LAB_SUBNET.1, connect: local, role: desktop, supervisor: process, dir: $work/desk }
deploy:
  - { model: chat, on: { role: pi } }
  - { model: chat, on: [desk] }
routes:
  chat: { order: [local, desk] }
END
}

# bramble, inside the network of the hosts. The cache is shared with other runs, the keys are not.
b() { "$lab" exec "$bramble" "$@"; }

# run EXIT WORDS...: runs bramble, wants that exit code, keeps what it said in $said.
run() {
    local want=$1 got=0
    shift
    said=$(b "$@" 2>&1) || got=$?
    printf '$ bramble %s\n%s\n[%s]\n' "$*" "$said" "$got"
    [ "$got" = "$want" ] || die "bramble $* ended with $got, not $want"
}

# ask HOST: the question of the demo.
ask() { run 0 chat "$1" --system 'Answer in one sentence.' 'What is the capital of France?'; }

# says TEXT: the last run said this.
says() { [[ $said == *"$1"* ]] || die "it did not say: $1"; }
says_not() { [[ $said != *"$1"* ]] || die "it said: $1"; }

# edit SED-EXPRESSION: changes the manifest and shows what changed.
edit() {
    sed -i.before -e "$1" fleet.yaml
    if cmp -s fleet.yaml.before fleet.yaml; then die "the manifest did not change: $1"; fi
}
restore_manifest() { manifest >fleet.yaml; }

# generation HOST: the number in force there.
generation() {
    case $1 in
    desk) basename "$(readlink -f "$work/desk/current")" ;;
    *) basename "$("$lab" ssh "$1" readlink -f /var/lib/bramble/current)" ;;
    esac
}

# on HOST SCRIPT: as root on a host; the words of the script are joined, as ssh does.
on() { "$lab" ssh "$@"; }

# stop_operator SIGNAL PID: signals the bramble that was started as PID, not only the shell, and without root the sudo, around it.
stop_operator() {
    local around
    around=$2,$(pgrep -d, -P "$2") || around=$2
    pkill "-$1" -x -P "$around" bramble
}

# Hosts share this machine's processors here, and an engine's threads spin while they wait for each other: where one has
# lost its processor to another engine, answers take fifty times as long as was planned. So each engine gets one thread:
# those of the Pis on one processor, the desktop's on the other.
one_thread_each() {
    local host pid
    b() { "$lab" exec taskset -c 1 "$bramble" "$@"; }
    # whatever these start inherits it
    for host in kitchen shed; do on "$host" taskset -a -p -c 0 1; done
    for pid in $(pgrep -f "^$work/desk/"); do taskset -a -p -c 1 "$pid"; done
    run 0 restart
}

# other_bundle DIR SCRIPT: a bundle like ours in DIR, changed by SCRIPT in its folder
other_bundle() {
    local dir=$1 file description size
    description=$(uname -m)-unknown-linux-gnu.json
    rm -rf "$dir" && mkdir -p "$dir/in"
    file=$(jq -r .file "$BRAMBLE_BUNDLES/$description")
    tar -xzf "$BRAMBLE_BUNDLES/$file" -C "$dir/in"
    (cd "$dir/in" && eval "$2")
    (cd "$dir/in" && tar -czf "../$file" -- *)
    size=$(stat -c %s "$dir/$file")
    jq -c --arg digest "$(sha256sum "$dir/$file" | cut -d ' ' -f 1)" --argjson bytes "$size" \
        '.digest = $digest | .bytes = $bytes' "$BRAMBLE_BUNDLES/$description" >"$dir/$description"
    rm -rf "$dir/in"
}
