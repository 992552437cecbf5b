# A new generation whose engine cannot start: the host goes back by itself, and the old one serves.
# shellcheck shell=bash
before=$(generation kitchen) others="$(generation shed) $(generation desk)"
on kitchen cat /var/lib/bramble/current/models/chat.gguf >whole.gguf
# its way to cut text has another name: all is there, and llama.cpp does not know that name
LC_ALL=C sed 's/smollm/smollx/' whole.gguf >broken.gguf
edit "s|^hosts:|  odd: { source: \"file:$PWD/broken.gguf\", context: 1024 }\nhosts:|; s|^deploy:|deploy:\n  - { model: odd, on: [kitchen] }|"
run 1 apply --yes
says "kitchen"
says "went back to generation $before"
[ "$(generation kitchen)" = "$before" ] || die "kitchen is at $(generation kitchen)"
ask kitchen
says "answered by kitchen"
[ "$(generation shed) $(generation desk)" = "$others" ] || die "another host was changed"
# a file that lacks a tensor, or is cut off, is refused before a byte moves
restore_manifest
LC_ALL=C sed 's/blk\.0\.attn_q\.weight/blk.0.attn_x.weight/' whole.gguf >lacking.gguf
edit "s|hf:HuggingFaceTB/SmolLM2-135M-Instruct|file:$PWD/lacking.gguf|"
run 3 apply --yes
says 'no tensor "blk.0.attn_q.weight"'
head -c 60000000 whole.gguf >cut.gguf
restore_manifest
edit "s|hf:HuggingFaceTB/SmolLM2-135M-Instruct|file:$PWD/cut.gguf|"
run 3 apply --yes
says "it is cut off"
restore_manifest
run 0 plan --exit-code
