# One of eight hosts is switched off: seven are changed, the exit code says that one is missing, and the next run
# catches it up.
# shellcheck shell=bash
names=(one two three four five six seven eight)
"$lab" up ct "${names[@]}"
"$lab" known >"$work/known_hosts"
python3 "$repo/tests/reference/random_model.py" "$checkpoints/lab/tiny" --layers 4 --hidden 512 --inner 1024 --vocab 4096
mkdir -p eight
eight() { # CONTEXT
    cat <<END
bramble: 1
fleet: eight
defaults: { ssh: { user: pi } }
serve: { port: 8080, tls: off }
# all of them share this machine's processors
rollout: { max_parallel: 1 }
models:
  tiny: { source: "hf:lab/tiny", context: $1, prefer: speed }
hosts:
$(for name in "${names[@]}"; do echo "  $name: { address: $("$lab" ip "$name") }"; done)
deploy:
  - { model: tiny, on: { role: pi } }
END
}
of_eight() { # EXIT ARGUMENTS...
    local want=$1
    shift
    run "$want" -f eight/fleet.yaml "$@"
}
served() { for name in "${names[@]}"; do echo "$name $(generation "$name" 2>/dev/null || echo off)"; done; }
eight 512 >eight/fleet.yaml
of_eight 0 apply --yes
says "Applied: 8 hosts"
"$lab" cut five
eight 640 >eight/fleet.yaml
of_eight 2 apply --yes
says "five"
says "left out"
served
[ "$(served | grep -c ' 2$')" = 7 ] || die "not seven were changed"
"$lab" on five
[ "$(generation five)" = 1 ] || die "five is at $(generation five)"
of_eight 0 apply --yes
[ "$(served | grep -c ' 2$')" = 8 ] || die "not all are changed"
of_eight 0 chat five 'Say yes.' --max-tokens 4
says "answered by five: tiny"
of_eight 0 plan --exit-code
of_eight 0 remove --all --yes
"$lab" down "${names[@]}"
