# A host of its own, and what is wrong with a new generation is seen only when it runs: the host goes back by itself.
# shellcheck shell=bash disable=SC2154
"$lab" up ct attic
"$lab" known >"$work/known_hosts"
mkdir -p attic
attic() { # CONTEXT
    cat >attic/fleet.yaml <<END
bramble: 1
fleet: attic
defaults: { ssh: { user: pi } }
models:
  chat: { source: "hf:HuggingFaceTB/SmolLM2-135M-Instruct", context: $1 }
hosts:
  attic: { address: $("$lab" ip attic) }
deploy:
  - { model: chat, on: [attic] }
END
}
a() { # EXIT ARGUMENTS...
    local want=$1
    shift
    run "$want" -f attic/fleet.yaml "$@"
}
still_serves() {
    [ "$(generation attic)" = 1 ] || die "attic is at $(generation attic)"
    a 0 chat attic 'Say yes.' --max-tokens 4
    says "answered by attic"
}
attic 1024
a 0 apply --yes
# what it is to answer at is what it does, not what a board of its name does
a 0 bench attic
still_serves

# wrapped DIR WHAT: a bundle whose program does WHAT before it is an engine
wrapped() {
    # shellcheck disable=SC2016 # the shell of the host expands this
    other_bundle "$1" 'mv brambled real && cat >brambled && chmod +x brambled' <<END
#!/bin/sh
if [ "\$1" = engine ]; then
    $2
fi
exec "\$(dirname "\$(readlink -f "\$0")")/real" "\$@"
END
}
ours=$BRAMBLE_BUNDLES
bad_program() { # DIR
    export BRAMBLE_BUNDLES=$1
    a 1 apply --yes
    export BRAMBLE_BUNDLES=$ours
    says "went back to generation 1"
    still_serves
}

# a program that runs until it has a model to load: the new generation's own program cannot be trusted to go back
# shellcheck disable=SC2016 # the shell of the host expands this
wrapped "$work/dies" 'kill -ILL $$'
bad_program "$work/dies"
# and one that loads and answers nothing, which takes four fifths of the deadline
if [ -n "${BRAMBLE_LONG:-}" ]; then
    # shellcheck disable=SC2016
    wrapped "$work/mute" '(until [ -S /var/lib/bramble/run/engine-chat.sock ]; do sleep 0.1; done; kill -STOP $$) &'
    bad_program "$work/mute"
fi

# units follow from what a host shall run, and a plan into which other ones were written is refused
attic 960
a 0 plan --out attic/good.json
jq '(.hosts[].units[] | select(.name == "bramble-engine-chat.service").text) |= sub("ExecStart=/"; "ExecStart=+/")' attic/good.json >attic/bad.json
a 3 apply attic/bad.json
says "what this plan says of attic does not follow from the manifest"
still_serves

# a unit that systemd does not take, and one that it takes and that starts nothing: here somebody on the host writes to them
bad_unit() { # SED
    on attic 'cat >/usr/local/bin/systemd-analyze && chmod +x /usr/local/bin/systemd-analyze' <<END
#!/bin/sh
sed -i '$1' /var/lib/bramble/generations/.new-*/units/bramble-engine-chat.service
exec /usr/bin/systemd-analyze "\$@"
END
    a 1 apply --yes
    on attic rm /usr/local/bin/systemd-analyze
}
bad_unit 's,ExecStart=/,ExecStart=bad/,'
says "bramble-engine-chat.service"
still_serves
bad_unit 's,--model chat,--model chap,'
says "went back to generation 1"
still_serves

a 0 apply --yes
a 0 plan --exit-code
a 0 remove --all --yes
"$lab" down attic
