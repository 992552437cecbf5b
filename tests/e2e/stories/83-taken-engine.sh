# Somebody has taken over an engine: in its place, in its unit, a program tries one thing after the other.
# shellcheck shell=bash disable=SC2154
run 0 apply --yes
tries="/usr/bin/perl /run/taken /var/lib/bramble $("$lab" ip shed) $(on kitchen systemctl show -P MainPID bramble-route)"
on kitchen 'cat >/run/taken && touch /home/pi/own' <"$here/taken"

# root can do this, so that it is refused to an engine, and not wrong in itself
on kitchen "$tries" >"$work/root"
if sed -n '/^shadow /,$p' "$work/root" | grep -v ' done$'; then die "this does not work for root either"; fi

# what the filter of calls refuses is told from what the kernel would
dropin=/run/systemd/system/bramble-engine-chat.service.d
trap 'on kitchen "rm -rf $dropin && systemctl daemon-reload"' EXIT
on kitchen "mkdir $dropin && cat >$dropin/taken.conf && systemctl daemon-reload && systemctl restart bramble-engine-chat" <<END
[Service]
Type=oneshot
Restart=no
ExecStart=
ExecStart=$tries
SystemCallErrorNumber=ENOANO
StandardOutput=truncate:/run/tried
END
on kitchen "rm -rf $dropin /run/taken /home/pi/own && systemctl daemon-reload && systemctl restart bramble-engine-chat"
on kitchen cat /run/tried >"$work/engine"
paste "$work/root" "$work/engine"
[ "$(cut -d ' ' -f 1 "$work/root")" = "$(cut -d ' ' -f 1 "$work/engine")" ] || die "not all was tried"
if grep ' done$' "$work/engine"; then die "an engine could do this"; fi
if join "$work/root" "$work/engine" | sed '/^shadow /,$d' | grep -vE ' ENOANO$|^(new_namespace|setns|personality|code_in_memory) .* EPERM$'; then die "the kernel looked at this"; fi
ask kitchen
