# From the published archive alone: a bare machine without a compiler becomes an operator's, and brings a bare host to
# an answer.
# shellcheck shell=bash disable=SC2016
release=$BRAMBLE_DIST/release
[ -x "$release/install.sh" ] || die "there is no release: run scripts/release local"
"$lab" up ct op bare
on op 'mkdir release fleet'
tar -C "$release" -c . | on op tar -x -C release
on op '! command -v cc gcc clang cargo python3' || die "this machine could have built it"

# what is not as its checksum says is not installed
on op 'mkdir bad && cp release/* bad/ && printf x >>bad/bramble-*.tar.gz'
if on op sh bad/install.sh --from bad 2>said; then die "it was installed"; fi
grep -q "nothing was installed" said || die "it said: $(cat said)"
on op 'test ! -e /usr/local/bin/bramble' || die "something of it was put there"
if on op sh release/install.sh --from release --version 9.9.9 2>said; then die "it was installed"; fi
grep -q "has no release 9.9.9" said || die "it said: $(cat said)"
if on op sh release/install.sh --from http://127.0.0.1:1 2>said; then die "it was installed from anywhere"; fi
grep -q 'an address that begins with https://' said || die "it does not say why: $(cat said)"

# twice, so that it also takes the place of another
on op 'mkdir -p /usr/local/share/bramble/bundles && touch /usr/local/share/bramble/bundles/brambled-0.0.1-x86_64-unknown-linux-gnu.tar.gz'
on op 'cd release && sh install.sh --from . && cat install.sh | sh -s -- --from /root/release'
on op 'test "$(ls /usr/local/share/bramble/bundles/*.tar.gz | wc -l)" = "$(ls /usr/local/share/bramble/bundles/*.json | wc -l)"' ||
    die "an older bundle is left: $(on op ls /usr/local/share/bramble/bundles)"

# its words, where man and the shells look; not those of a command that is no more
on op 'touch /usr/local/share/man/man1/bramble-gone.1 && sh release/install.sh'
on op 'test -s /usr/local/share/man/man1/bramble-keys-add.1 && test ! -e /usr/local/share/man/man1/bramble-gone.1' ||
    die "the manual is: $(on op 'ls /usr/local/share/man/man1')"
on op 'bash -c ". /usr/local/share/bash-completion/completions/bramble && COMP_WORDS=(bramble rollb) COMP_CWORD=1 && _bramble bramble rollb bramble && [ \"\${COMPREPLY[*]}\" = rollback ]"' ||
    die "bash does not complete rollb"
for file in zsh/site-functions/_bramble fish/vendor_completions.d/bramble.fish; do
    on op "grep -q rollback /usr/local/share/$file" || die "there is no $file"
done

on op 'install -m 0600 /dev/stdin .ssh/id_ed25519' <"$("$lab" key)"
tar -C "$checkpoints/HuggingFaceTB" -c SmolLM2-135M-Instruct | on op tar -x
on op 'cat >fleet/fleet.yaml' <<END
bramble: 1
fleet: released
defaults: { ssh: { user: pi } }
models:
  chat: { source: "file:/root/SmolLM2-135M-Instruct", context: 512, quant: Q4_K_M }
hosts:
  bare: { address: $("$lab" ip bare) }
deploy:
  - { model: chat, on: [bare] }
END
on op 'cd fleet && bramble apply --yes --accept-new-host-keys'
on op 'cd fleet && bramble chat bare --system "Answer in one sentence." "What is the capital of France?"' >said 2>&1
cat said
grep -q Paris said || die "no answer"
on op 'cd fleet && bramble remove --all --yes'
on bare test ! -e /var/lib/bramble || die "something is left"
on op 'sh release/install.sh --remove'
left=$(on op 'find /usr/local -name "*bramble*"')
[ -z "$left" ] || die "the installer left $left"
on op test -e fleet/fleet.yaml || die "a fleet was removed"
"$lab" down op bare
