# What the scripts share. Source it from bash with `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lab=$repo/tests/lab/lab
# One target directory for every clone: llama.cpp takes minutes of C++ to build.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bramble/target}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# figure NAME VALUE: keeps a figure that was measured, where somebody wants it (scripts/figures).
figure() { [ -z "${BRAMBLE_FIGURES:-}" ] || printf '%s = %s\n' "$1" "$2" >>"$BRAMBLE_FIGURES"; }
# measured BINARY TEST: runs a measurement and keeps every figure that it prints
measured() {
    local output name value
    output=$(cargo test --release --locked --test "$1" -- --include-ignored --nocapture "${@:2}" 2>&1 | tee >(cat >&2))
    while read -r name value; do
        figure "$name" "$value"
    done < <(sed -n 's/^\(test .* \.\.\. \)\?\([a-z_.0-9]*\) = \(.*\)$/\2 \3/p' <<<"$output")
}

# Cleanup: commands run at the end, last one first, however the script ends.
at_exit=()
on_exit() { at_exit+=("$*"); }
clean_up() {
    local code=$? i
    trap - EXIT
    for ((i = ${#at_exit[@]} - 1; i >= 0; i--)); do eval "${at_exit[i]}" || true; done
    exit "$code"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

is_root() { [ "$(id -u)" = 0 ]; }
can_be_root() { is_root || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }
as_root() { if is_root; then "$@"; else sudo "$@"; fi; }

# need_packages WHY PACKAGE...: installs what is missing; does nothing when all is there.
need_packages() {
    local why=$1 missing=() package
    shift
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "missing for $why: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        say "this is not Debian or Ubuntu: install what corresponds to them"
        return 1
    fi
    if ! is_root && ! command -v sudo >/dev/null; then
        say "as root: apt-get install ${missing[*]}"
        return 1
    fi
    if [[ " ${missing[*]} " == *" openssh-server "* ]] && [ -d /run/systemd/system ]; then
        say "the tests start an sshd of their own; the system's is masked, so that nothing new listens"
        as_root systemctl mask ssh.service ssh.socket
    fi
    as_root apt-get -q update >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >&2
}

need_cargo() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml") or later from https://rustup.rs"
}

# lab_up NAME...: starts container hosts; they are deleted when the script ends.
lab_up() {
    "$repo/tests/lab/install-deps"
    on_exit "$lab" down
    "$lab" up ct "$@"
}

# start_hub_double DIR: serves DIR/ORG/REPO/... as a model hub inside the lab's network,
# sets HF_ENDPOINT, and ends it when the script ends. Wants lab_up before.
start_hub_double() {
    local dir=$1 port_file pid
    cargo build -q --manifest-path "$repo/Cargo.toml" --no-default-features --example hub_double
    port_file=$(mktemp -u)
    # what was started here may be root's sudo, which is not ours to signal; the double is
    # shellcheck disable=SC2016 # for the shell inside
    "$lab" exec sh -c 'echo $$ >"$1.pid" && exec "$2" --dir "$3" --port-file "$1"' \
        sh "$port_file" "$CARGO_TARGET_DIR/debug/examples/hub_double" "$dir" >&2 &
    pid=$!
    on_exit "kill \$(cat $port_file.pid) 2>/dev/null; wait $pid 2>/dev/null; rm -f $port_file $port_file.pid"
    until [ -s "$port_file" ]; do
        [ -d "/proc/$pid" ] || die "the hub double ended"
        sleep 0.1
    done
    HF_ENDPOINT=http://127.0.0.1:$(cat "$port_file")
    export HF_ENDPOINT
}

# Whether the time is up for what has not begun, where there is a limit: BRAMBLE_DEADLINE, in seconds since 1970.
is_late() { [ "$(date +%s)" -ge "${BRAMBLE_DEADLINE:-9999999999}" ]; }

# step NAME COMMAND...: runs it, says how long it took, and writes the result down.
# A step of tests counts its tests (count_tests); any other counts itself.
results=${BRAMBLE_RESULTS:-}
failed_steps=()
step() {
    local name=$1 begun=$SECONDS code=0 output passed failed counted
    shift
    say ""
    if is_late; then
        say "SKIPPED $name: no time is left for it"
        [ -z "$results" ] || printf '0\t0\t0\tSKIPPED %s\n' "$name" >>"$results"
        return
    fi
    say "== $name"
    output=$(mktemp)
    # not "if": errors inside the command shall end it
    set +e
    (
        set -e
        "$@"
    ) 2>&1 | tee "$output" >&2
    code=${PIPESTATUS[0]}
    set -e
    read -r passed failed counted < <(count_tests "$output")
    rm -f "$output"
    if [ "$code" != 0 ]; then
        failed_steps+=("$name")
        [ "$failed" -gt 0 ] || failed=1
    elif [ "$((passed + failed))" = 0 ] && [ "$counted" = 0 ]; then
        passed=1
    fi
    say "== $name: $([ "$code" = 0 ] && echo ok || echo FAILED) after $((SECONDS - begun)) s"
    [ -z "$results" ] || printf '%s\t%s\t%s\t%s\n' "$passed" "$failed" "$((SECONDS - begun))" "$name" >>"$results"
}

# count_tests FILE: prints how many tests passed and failed by what nextest, cargo test and the stories say in FILE, and how
# often they say it.
count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3; counted++ }
        /^ *Summary \[.*tests? run:/ || /^test result: / {
            counted++
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^failed/) failed += $(i - 1)
                if ($i == "timed" && $(i + 1) ~ /^out/) failed += $(i - 1)
            }
        }
        END { print passed + 0, failed + 0, counted + 0 }'
}

# What each job needs of Debian 12 and 13 and Ubuntu 24.04.
build_packages=(g++ cmake make libclang-dev binutils git)
checkpoint_packages=(python3 python3-venv)

# The operator's program, the bundles that it sends, which go beside the clone and not into the
# user's own folder, and where the real checkpoint is kept.
bramble=${BRAMBLE_PROGRAM:-$CARGO_TARGET_DIR/release/bramble}
export BRAMBLE_DIST=${BRAMBLE_DIST:-$repo/dist}
export BRAMBLE_BUNDLES=$BRAMBLE_DIST/bundles
checkpoints=${XDG_CACHE_HOME:-$HOME/.cache}/bramble/checkpoints

# How cargo builds our own crate where only tests run it: to optimize it in full takes minutes, and without any of that weights
# are made ten times as slowly. The libraries are optimized all the same.
quickly=(--config 'profile.release.package.bramble-fleet.opt-level=1')

# archive FOLDER NAME...: writes what has these names in FOLDER to standard output, always the same bytes.
archive() {
    tar --create --directory "$1" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u=rwX,go=rX \
        --format=gnu "${@:2}"
}

# This machine's own target, as Rust names it.
host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# Builds both programs and the bundle for hosts like this machine.
build_programs() {
    (cd "$repo" && scripts/bundle && cargo build -q --locked --release --bin bramble)
}

# Starts an ssh-agent that holds the key of the lab's hosts; it ends with the script.
start_agent() {
    eval "$(ssh-agent -s)" >/dev/null
    on_exit "kill $SSH_AGENT_PID"
    ssh-add -q "$("$lab" key)"
}

# Whether the model hub can be reached.
hub_answers() { curl -fsS -m 10 -o /dev/null https://huggingface.co/api/models/HuggingFaceTB/SmolLM2-135M-Instruct 2>/dev/null; }
