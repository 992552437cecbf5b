# When a host's engine is gone, the desktop answers, and the reply says so.
# shellcheck shell=bash
on kitchen systemctl stop bramble-engine-chat
ask kitchen
says Paris
says "answered by desk"
says "not the first choice: local:"
run 0 status
says "stopped"
# apply mends what is not as it was applied
run 2 plan --exit-code
run 0 apply --yes
ask kitchen
says "answered by kitchen"
# a killed engine: the next request is answered by the desktop at once
on kitchen 'kill -KILL "$(systemctl show --property MainPID --value bramble-engine-chat)"'
ask kitchen
says Paris
for _ in $(seq 100); do # systemd starts it again
    if b chat kitchen Hello --max-tokens 4 --json | jq -e '.host == "kitchen"' >/dev/null; then break; fi
    read -rt 0.2 <> <(:) || true
done
b chat kitchen Hello --max-tokens 4 --json | jq -e '.host == "kitchen"'
