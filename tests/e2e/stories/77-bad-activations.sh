# What can go wrong while a host changes, each with the old generation serving afterwards, and words.
# shellcheck shell=bash disable=SC2154
before=$(generation kitchen)

still_serves() {
    [ "$(generation kitchen)" = "$before" ] || die "kitchen is at $(generation kitchen)"
    ask kitchen
    says "answered by kitchen"
}

# a program that meets an instruction that the processor does not have, and one that lacks a library
other_bundle "$work/illegal" "printf 'int main(void) { __builtin_trap(); }' | cc -x c -o brambled -"
# shellcheck disable=SC2016 # it is looked at later
other_bundle "$work/lacking" 'rm lib/libllama.so.0'
ours=$BRAMBLE_BUNDLES
for kind in illegal lacking; do
    export BRAMBLE_BUNDLES=$work/$kind
    run 1 apply --yes
    export BRAMBLE_BUNDLES=$ours
    says "the program of the bundle does not run on this host"
    case $kind in
    illegal) says "Illegal instruction" ;;
    lacking) says "libllama.so.0" ;;
    esac
    still_serves
done

# a folder that can only be read
on kitchen 'mount --bind /var/lib/bramble /var/lib/bramble && mount -o remount,bind,ro /var/lib/bramble'
edit 's/context: 1024/context: 896/'
run 2 apply --yes # the others are changed
says "Read-only file system"
on kitchen umount /var/lib/bramble
still_serves

# the plug is pulled, with and without a new program on the way, while the new generation waits to be confirmed
b apply --yes >cut.log 2>&1 &
operator=$!
for _ in $(seq 600); do
    ! on kitchen test -e /var/lib/bramble/pending 2>/dev/null || break
    kill -0 $operator 2>/dev/null || die "it ended: $(cat cut.log)"
done
on kitchen test -e /var/lib/bramble/pending || die "the activation was never seen"
"$lab" cut kitchen
wait $operator && die "it said that all went well: $(cat cut.log)"
cat cut.log
"$lab" on kitchen
"$lab" look kitchen pi5-8gb
for _ in $(seq 100); do
    on kitchen test -e /var/lib/bramble/pending 2>/dev/null || break
    sleep 0.3
done
on kitchen journalctl --no-pager -b -u bramble-guard-boot >guard.log
cat guard.log
grep -q "was not confirmed: going back to $before" guard.log || die "it was not the guard that went back"
for _ in $(seq 100); do
    [ "$(on kitchen systemctl is-active bramble-engine-chat bramble-route | sort -u)" != active ] || break
    sleep 0.3
done
still_serves
run 0 apply --yes
[ "$(generation kitchen)" != "$before" ] || die "nothing was changed"
restore_manifest
run 0 apply --yes
run 0 plan --exit-code
