# A host whose login may not become root: all of Bramble is that login's own, lasts without a login
# and through a power cut, and remove leaves its home as it was.
# shellcheck shell=bash
"$lab" up ct loft
"$lab" known >"$work/known_hosts"
on loft 'useradd -m -s /bin/bash ann && cp -r .ssh /home/ann/ && chown -R ann: /home/ann/.ssh'
root=/home/ann/.local/share/bramble units=/home/ann/.config/systemd/user
as_ann() { LAB_USER=ann "$lab" ssh loft "$@"; }
home() { on loft 'cd /home/ann && find . | sort'; }
in_force() { basename "$(as_ann readlink $root/current)"; }
# its lock lies beside it
mkdir -p loft
cat >loft/fleet.yaml <<END
bramble: 1
fleet: loft
models:
  chat: { source: "hf:HuggingFaceTB/SmolLM2-135M-Instruct", context: 1024 }
hosts:
  loft: { address: $("$lab" ip loft), ssh: { user: ann } }
deploy:
  - { model: chat, on: [loft] }
END
l() {
    local want=$1
    shift
    run "$want" -f loft/fleet.yaml "$@"
}
answers() {
    l 0 chat loft --system 'Answer in one sentence.' 'What is the capital of France?'
    says Paris
    says "answered by loft"
}
# until_answers SECONDS: the host may be on its way up.
until_answers() {
    local end=$((SECONDS + $1))
    until b -f loft/fleet.yaml chat loft 'Hello.' >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "loft does not answer"
        sleep 1
    done
    answers
}
before=$(home)

# nobody but an administrator can let its services outlive its logins
l 3 apply --yes
# shellcheck disable=SC2016 # the command is quoted so
says '`sudo loginctl enable-linger ann`'
[ "$(home)" = "$before" ] || die "something was changed"
on loft loginctl enable-linger ann

l 2 plan --exit-code
says "all of Bramble is ann's own, in $root"
l 0 apply --yes
answers
[ "$(on loft ps -o user= -C brambled | sort -u)" = ann ] || die "brambled does not run as ann"
on loft "test ! -e /var/lib/bramble && ! ls /etc/systemd/system | grep bramble && ! id bramble 2>/dev/null"
as_ann systemctl --user is-active bramble-route bramble-engine-chat
as_ann systemctl --user is-enabled bramble-route bramble-engine-chat bramble-guard-boot
[ "$(on loft stat -c %U:%a $root/current/secrets.json)" = ann:600 ] || die "others may read the secrets"
# an engine sees the folder and nothing else of ann's, and may write its sockets only
engine=$(as_ann systemctl --user show -p MainPID --value bramble-engine-chat)
seen=$(on loft ls -A "/proc/$engine/root/home/ann")
[ "$seen" = .local ] || die "the engine sees $seen"
on loft "grep -q ' $root ro,' /proc/$engine/mountinfo && grep -q ' $root/run rw,' /proc/$engine/mountinfo"

# where the kernel lets nobody make namespaces, its unit has it enclose itself: systemd lets it, and it answers
as_ann "mkdir -p $units/bramble-engine-chat.service.d && cat >$units/bramble-engine-chat.service.d/own.conf" <<END
[Service]
$(grep -E '^(Environment=BRAMBLE_ENCLOSE|SystemCallFilter=landlock)' "$repo/templates/bramble-engine.service.j2")
END
as_ann 'systemctl --user daemon-reload && systemctl --user restart bramble-engine-chat'
until_answers 60
enclosed=$(as_ann systemctl --user show -p MainPID --value bramble-engine-chat)
[ "$enclosed" != "$engine" ] || die "the engine was not started anew"
on loft "journalctl --no-pager _PID=$enclosed | tail -n 20"
on loft "journalctl --no-pager _PID=$enclosed | grep -q ready" || die "it says nothing"
if on loft "journalctl --no-pager _PID=$enclosed | grep -E 'no Landlock|no filter of calls'"; then die "it is not enclosed"; fi
as_ann "rm -r $units/bramble-engine-chat.service.d && systemctl --user daemon-reload && systemctl --user restart bramble-engine-chat"
until_answers 60

# an update, an edited unit, the way back
sed -i 's/context: 1024/context: 768/' loft/fleet.yaml
l 0 apply --yes
[ "$(in_force)" = 2 ] || die "generation $(in_force) is in force"
l 0 apply --yes
says "Nothing to do"
as_ann "sed -i s/RestartSec=1/RestartSec=4/ $units/bramble-route.service"
l 2 plan --exit-code
says "the unit bramble-route.service was changed"
l 0 apply --yes
l 0 plan --exit-code
l 0 rollback --yes
[ "$(in_force)" = 2 ] || die "rollback went to $(in_force)"
answers

# an engine that cannot start: the host goes back by itself
as_ann cat $root/current/models/chat.gguf >whole.gguf
LC_ALL=C sed 's/smollm/smollx/' whole.gguf >broken.gguf
sed -i.before "s|^hosts:|  odd: { source: \"file:$PWD/broken.gguf\", context: 1024 }\nhosts:|; s|^deploy:|deploy:\n  - { model: odd, on: [loft] }|" loft/fleet.yaml
l 1 apply --yes
says "went back to generation 2"
mv loft/fleet.yaml.before loft/fleet.yaml
answers

# what nobody confirms is taken back: by the timer, and at boot
unconfirmed() { # SECONDS
    local lease
    lease=$(as_ann "sed -n 's/.*\"number\": *\([0-9]*\).*/\1/p' $root/lease" | head -n 1)
    printf '{"to": 3, "deadline_seconds": %s, "probe": {"prompt": "Say yes.", "max_tokens": 8}}' "$1" |
        as_ann "$root/current/program/brambled rollback --root $root --lease $lease"
    [ "$(in_force)" = 3 ] || die "generation $(in_force) is in force"
}
unconfirmed 20
until [ "$(in_force)" = 2 ] && as_ann test ! -e $root/pending; do sleep 1; done
until_answers 60
unconfirmed 600
"$lab" cut loft
"$lab" on loft
until as_ann test ! -e $root/pending; do sleep 1; done
[ "$(in_force)" = 2 ] || die "the guard went to $(in_force)"
until_answers 60
l 2 plan --exit-code
says "was taken back by the host itself"
l 0 apply --yes

# it serves with nobody logged in, and after a power cut
while on loft pgrep -u ann sshd; do sleep 1; done
answers
"$lab" cut loft
"$lab" on loft
! on loft pgrep -u ann sshd || die "somebody has logged in"
until_answers 60

l 0 remove --all --yes
[ "$(home)" = "$before" ] || die "remove left something: $(home)"
on loft '! pgrep brambled'
# it was not switched on by us
[ "$(on loft loginctl show-user ann --property=Linger --value)" = yes ] || die "lingering was switched off"
"$lab" down loft
