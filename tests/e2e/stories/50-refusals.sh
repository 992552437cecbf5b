# What cannot go well is refused before a byte moves, in words, and harms nothing.
# shellcheck shell=bash
generations() { echo "$(generation kitchen) $(generation shed) $(generation desk)"; }
before=$(generations)
unharmed() { [ "$(generations)" = "$before" ] || die "something was changed: $(generations)"; }

# five faults at once
cat >faulty.yaml <<'END'
bramble: 1
fleet: Stories
serve: { port: 80800, tls: off }
models:
  chat: { source: "hf:HuggingFaceTB/SmolLM2-135M-Instruct", quantt: auto }
hosts:
  kitchen: { address: 10.0.0.1, role: pie }
deploy:
  - { model: chatt, on: [kitchen] }
END
run 3 check --file faulty.yaml
says "5 problems"
says "did you mean"
says "faulty.yaml:5:"

# a wrong host key
key=$(awk -v host="$("$lab" ip kitchen)" '$1 == host { print $2, $3; exit }' "$work/known_hosts")
other=$(awk -v host="$("$lab" ip shed)" '$1 == host { print $2, $3; exit }' "$work/known_hosts")
sed "s|${key}|${other}|" "$work/known_hosts" >"$work/wrong_known_hosts"
edit 's/context: 1024/context: 640/'
(
    export BRAMBLE_KNOWN_HOSTS=$work/wrong_known_hosts
    run 0 plan
    says "kitchen"
    says "host key that is not the one known"
)
# an unknown host key
(
    : >"$work/no_known_hosts"
    export BRAMBLE_KNOWN_HOSTS=$work/no_known_hosts
    run 0 plan
    says "unknown host key"
    says "--accept-new-host-keys"
)
restore_manifest

# no sudo
on kitchen 'mv /etc/sudoers.d/010_pi-nopasswd /root/; deluser -q pi sudo 2>/dev/null || gpasswd -d pi sudo >/dev/null'
run 3 plan
says "kitchen does not let pi become root"
says "sudo loginctl enable-linger pi"
run 3 apply --yes
on kitchen 'mv /root/010_pi-nopasswd /etc/sudoers.d/'
unharmed

# a model that fits nowhere: what would fit is said
edit 's/, context: 1024/, context: 1024, quant: F32/'
run 3 apply --yes
says "shed"
says "fits"
restore_manifest
unharmed

# an architecture that nobody knows
mkdir -p strange
printf '{"architectures":["StrangeForCausalLM"],"model_type":"strange"}' >strange/config.json
printf '{}' >strange/tokenizer.json
printf '\10\0\0\0\0\0\0\0{}      ' >strange/model.safetensors
edit "s|hf:HuggingFaceTB/SmolLM2-135M-Instruct|file:$PWD/strange|"
run 3 apply --yes
says "StrangeForCausalLM"
restore_manifest
unharmed
ask kitchen
says "answered by kitchen"
