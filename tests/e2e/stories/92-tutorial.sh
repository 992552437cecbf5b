# docs/tutorial.md as it stands: every command of its `sh` fences, in order, from `init` to `remove`.
# shellcheck shell=bash disable=SC2016,SC2154
#
# What differs from what is typed: a question is answered with --yes, since nobody sits here; the key is the one that the
# first apply has shown; `kitchen.local` is led to the host's address; this machine, which need not have systemd, is given
# a folder and Bramble's own supervisor. After `curl`, the page's Python is run.
mkdir -p "$work/tutorial/bin" "$work/tutorial/home/.ssh" "$work/tutorial/fleet"
cp "$bramble" "$work/tutorial/bin/bramble"
for host in kitchen shed; do
    printf 'Host %s\n  HostName %s\n  User pi\n' "$host" "$("$lab" ip "$host")"
done >"$work/tutorial/home/.ssh/config"

# commands PAGE: the command lines of its `sh` fences, but for those that the line before says are not run, or elsewhere
commands() {
    awk '
        /^ *```/ { if (in_fence) { in_fence = 0 } else { in_fence = 1; runs = /```sh$/ && !skip }; skip = 0; next }
        !in_fence { skip = /^ *<!-- (not run|run by)/; next }
        runs && !/^ *#/ && NF { if (sub(/\\$/, "")) printf "%s", $0; else print }
    ' "$1"
}
# the Python of the page, as it stands, by a client as its users have it
python=$("$repo/tests/clients/prepare" "${XDG_CACHE_HOME:-$HOME/.cache}/bramble/reference/clients")
awk '/^```/ { on = /^```python$/; next } on' "$repo/docs/tutorial.md" >"$work/tutorial/ask.py"
grep -q '^client = openai' "$work/tutorial/ask.py" || die "the page has no Python"
cat >"$work/tutorial/python" <<'END'
import socket, sys

plain = socket.getaddrinfo
socket.getaddrinfo = lambda name, *rest, **more: plain(sys.argv[2] if name == "kitchen.local" else name, *rest, **more)
exec(open(sys.argv[1]).read())
END
typed=$work/tutorial/typed
commands "$repo/docs/tutorial.md" >"$typed"
[ "$(wc -l <"$typed")" -ge 18 ] || die "only these were found: $(cat "$typed")"
grep -q '^bramble init$' "$typed" || die "it does not begin with init"
[ "$(tail -n 1 "$typed")" = 'bramble remove --all' ] || die "it does not end with remove"

# one shell for all of it, as a person has
{
    echo 'set -euo pipefail'
    while IFS= read -r line; do
        printf "printf '\\\\n$ %%s\\\\n' %q\n" "$line"
        case $line in
        'bramble doctor '*) line="$line || [ \$? = 2 ]" ;; # 2: it found something to mend
        'bramble apply'* | 'bramble rollback'* | 'bramble remove'*) line="$line --yes 2>&1 | tee -a applied" ;;
        'export KEY='*) line='export KEY=$(sed -n "s/^ *\(bramble-[0-9a-f]*\)$/\1/p" applied | head -n 1)' ;;
        'curl '*) line="curl -sS --connect-to kitchen.local:8443:$("$lab" ip kitchen):8443 ${line#curl }" ;;
        esac
        printf '%s\n' "$line"
        case $line in
        'curl '*)
            printf "printf '\\n$ python\\n'; %q ../python ../ask.py %q && echo python was answered\n" "$python" "$("$lab" ip kitchen)"
            ;;
        'sed '*context:\ 1024*)
            echo "sed -i 's|connect: local, role: desktop|&, supervisor: process, dir: $work/tutorial/desk|' fleet.yaml"
            ;;
        esac
    done <"$typed"
} >"$work/tutorial/script"
desk() {
    (cd "$work/tutorial/fleet" && "$lab" exec env -u XDG_STATE_HOME HOME="$work/tutorial/home" \
        PATH="$work/tutorial/bin:$PATH" bash "$@" </dev/null)
}
on_exit "cd / && $lab exec env -u XDG_STATE_HOME HOME=$work/tutorial/home $bramble -f $work/tutorial/fleet/fleet.yaml remove --all --yes >/dev/null 2>&1"
said=$(desk "$work/tutorial/script" 2>&1) || die "the tutorial broke off: $said"
printf '%s\n' "$said"

# after NUMBER COMMAND: what was said from the NUMBERth time that a command began so, to the next
after() { awk -v n="$1" -v begins="$ $2" '/^\$ / { on = 0; if (index($0, begins) == 1 && ++seen == n) on = 1 } on' <<<"$said"; }
wants() { # NUMBER COMMAND TEXT
    [[ $(after "$1" "$2") == *"$3"* ]] || die "after $2 it did not say: $3"
}
wants 1 'bramble init' 'fleet.yaml: 3 hosts'
wants 1 'bramble check' ': ok'
wants 1 'bramble plan' 'Plan: 3 hosts to change'
wants 1 'bramble apply' 'Applied: 3 hosts.'
wants 1 'bramble chat' 'answered by kitchen'
wants 1 'bramble chat' Paris
wants 2 'bramble chat' 'answered by shed'
# it samples, so what it says is another thing each time
wants 1 'curl' '"object":"chat.completion"'
wants 1 'python' 'python was answered'
wants 2 'bramble plan' 'context 768'
wants 2 'bramble apply' 'Applied: 3 hosts.'
wants 3 'bramble apply' 'Nothing to do.'
wants 1 'bramble rollback' 'Rolled back: 3 hosts.'
wants 1 'bramble remove' 'Removed: 3 hosts.'
for host in kitchen shed; do
    on "$host" test ! -e /var/lib/bramble || die "something is left on $host"
done
