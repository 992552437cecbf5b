# A login that takes a password only, and whose sudo asks for it, too: both are asked for on the terminal,
# once, and after that a key is there and nothing was kept.
# shellcheck shell=bash
on shed 'useradd -m -s /bin/bash -G sudo eve && echo eve:open-sesame | chpasswd'
on shed 'printf "PasswordAuthentication yes\n" >/etc/ssh/sshd_config.d/00-passwords.conf && systemctl reload ssh'
edit 's/\(shed: { address: [0-9.]*\) }/\1, ssh: { user: eve } }/'

# typed WORDS...: runs bramble on a terminal; `answer` types there
typed() {
    rm -f keys typed.log
    mkfifo keys
    local words
    printf -v words ' %q' "$lab" exec "$bramble" "$@"
    script -qefc "${words# }" typed.log <keys >/dev/null 2>&1 &
    terminal=$!
    exec 9>keys
}
# answer QUESTION TEXT: waits for the question, and answers it
answer() {
    local tries=300
    until grep -aq -- "$1" typed.log 2>/dev/null; do
        tries=$((tries - 1))
        if [ $tries = 0 ] || ! kill -0 $terminal; then
            cat typed.log
            die "it never asked: $1"
        fi
        sleep 0.1
    done
    printf '%s\r' "$2" >&9
}
# ended EXIT: closes the terminal, and wants that exit code
ended() {
    local got=0 tries=600
    while kill -0 $terminal 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
    [ $tries -gt 0 ] || { cat typed.log; kill $terminal; die "it does not end"; }
    wait $terminal || got=$?
    exec 9>&-
    cat typed.log
    [ "$got" = "$1" ] || die "it ended with $got, not $1"
}

run 0 status
says "does not accept the login"
says "run this on a terminal"

typed plan
answer 'Password of eve@.*asked once' 'not-it'
answer 'That is not its password' 'open-sesame'
ended 0
if grep -a 'for sudo' typed.log; then die "one password was asked for twice"; fi
if grep -aq sesame typed.log; then die "a password was shown"; fi
on shed 'test "$(wc -l </home/eve/.ssh/authorized_keys)" = 1 && stat -c %a:%U /home/eve/.ssh /home/eve/.ssh/authorized_keys | xargs' | grep -x '700:eve 600:eve'

# the key is there; what is missing without a terminal is sudo's password
run 3 plan
says "wants a password for sudo"

# who looks at all that runs, here and on the hosts, sees no password while it is used
echo open-sesame >"$work/secret"
: >"$work/seen"
while kill -0 $$ 2>/dev/null && sleep 0.02; do
    grep -slaFf "$work/secret" /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>"$work/seen" || true
done &
watch=$!
# it sees what there is to see
env "KNOWN=$(cat "$work/secret")" sleep 2
grep -q '^/proc/[0-9]*/environ$' "$work/seen" || die "the watch sees nothing"
sleep 1
: >"$work/seen"
sed -i 's/context: 1024/context: 768/' fleet.yaml
typed apply --yes
answer 'Password of eve@.*for sudo' 'wrong'
answer 'sudo says' 'open-sesame'
ended 0
if grep -aq 'asked once' typed.log; then die "the login's password was asked for again"; fi
kill $watch || die "the watch has ended"
rm "$work/secret"
[ ! -s "$work/seen" ] || die "a password was seen in $(cat "$work/seen")"
if "$lab" exec grep -rqs open-sesame "$work"; then die "a password was kept"; fi
if on shed 'grep -rqs open-sesame /var/lib/bramble /etc/systemd /run /var/log /tmp /home/eve'; then die "a password is on the host"; fi
on shed 'journalctl --no-pager | grep -q "session opened for user eve"' || die "there is no journal"
if on shed 'journalctl --no-pager | grep -q open-sesame'; then die "a password is in the journal"; fi

restore_manifest
on shed 'rm /etc/ssh/sshd_config.d/00-passwords.conf && systemctl reload ssh; pkill -KILL -u eve; userdel -rf eve' || true
run 0 apply --yes
ask shed
says Paris
