use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::Needs;

/// What nothing that reads models asks of the kernel, and what a fault in it would be used for: to speak with others
/// (Landlock knows TCP's ports, and leaves UDP, and the sockets of agents and of container engines), to look into other
/// processes, to become another program, and the parts of the kernel in which most faults were found. `io_uring` does in the
/// kernel what no filter sees.
const REFUSED: [libc::c_long; 43] = [
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_personality,
    libc::SYS_msgget,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_pidfd_send_signal,
];

/// What only who listens on a socket asks of it.
const LISTENING: [libc::c_long; 4] = [libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4];

/// Gives up all files but those that are needed, the network, signals to others and [`REFUSED`]. Returns whether this kernel
/// keeps it from files.
///
/// # Errors
/// A rule cannot be made.
pub(super) fn confine(needs: &Needs) -> io::Result<bool> {
    let abi = ABI::V6;
    let failed = |error: landlock::RulesetError| io::Error::other(error);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(failed)?
        .handle_access(AccessNet::from_all(abi))
        .map_err(failed)?
        .scope(Scope::from_all(abi))
        .map_err(failed)?
        .create()
        .map_err(failed)?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    for path in &needs.reads {
        rules = allow(rules, path, read)?;
    }
    for path in &needs.keeps {
        rules = allow(rules, path, write | read)?;
    }
    for path in &needs.devices {
        rules = allow(rules, path, read | AccessFs::WriteFile | AccessFs::IoctlDev)?;
    }
    if let Some(path) = &needs.listens {
        rules = allow(rules, path, AccessFs::MakeSock | AccessFs::RemoveFile)?;
    }
    // how many cores there are, as limits of a container have it
    for path in ["/proc/self", "/sys/fs/cgroup", "/sys/devices/system/cpu"] {
        rules = allow(rules, Path::new(path), read)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
    if needs.owns_all {
        // root without them is the owner of its files, which are refused above, and nothing more
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    }
    if let Err(error) = refuse_calls(needs.listens.is_some()) {
        // as without Landlock, there is less then
        tracing::warn!("no filter of calls is kept: {error}");
    }
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Has the kernel refuse [`REFUSED`] to this thread and to those that it starts, for good; sockets too, but for those on
/// which a process listens that does.
fn refuse_calls(listens: bool) -> Result<(), seccompiler::Error> {
    let mut refused: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    // where the first argument is none of these
    let but_for = |values: &[u64]| {
        let differs =
            |value: &u64| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *value);
        let conditions = values.iter().map(differs).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, seccompiler::Error>(vec![SeccompRule::new(conditions)?])
    };
    // a thread signals its own process as it aborts, and that has limits of its own
    let own = u64::from(std::process::id());
    refused.insert(libc::SYS_tgkill, but_for(&[own])?);
    refused.insert(libc::SYS_rt_tgsigqueueinfo, but_for(&[own])?);
    refused.insert(libc::SYS_prlimit64, but_for(&[0, own])?);
    if listens {
        refused.insert(libc::SYS_socket, but_for(&[u64::from(libc::AF_UNIX.unsigned_abs())])?);
    } else {
        refused.insert(libc::SYS_socket, Vec::new());
        refused.extend(LISTENING.iter().map(|call| (*call, Vec::new())));
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |refused, errno: i32| {
        let action = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(refused, SeccompAction::Allow, action, arch)?.try_into()
    };
    // a process of its own would have the limits on memory, time and files once more: there are threads, and no others
    let no_thread = SeccompCmpOp::MaskedEq(u64::from(libc::CLONE_THREAD.unsigned_abs()));
    let forks = SeccompCondition::new(0, SeccompCmpArgLen::Qword, no_thread, 0)?;
    let mut forking = BTreeMap::from([(libc::SYS_clone, vec![SeccompRule::new(vec![forks])?])]);
    #[cfg(target_arch = "x86_64")]
    forking.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, Vec::new())));
    let forking: BpfProgram = filter(forking, libc::EAGAIN)?;
    // its flags are in memory, where no filter sees them: whoever hears that there is no such call takes `clone`
    let newer: BpfProgram = filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    // calls of another architecture end the process
    let mut all: BpfProgram = filter(refused, libc::EPERM)?;
    if cfg!(target_arch = "x86_64") {
        all.splice(..0, WITHOUT_X32);
    }
    [forking, newer, all].iter().try_for_each(|program| seccompiler::apply_filter(program))
}

/// Refuses all calls of x32 (`EPERM`), which are x86-64's under other numbers, from 2^30 on: none of ours is one.
const WITHOUT_X32: [sock_filter; 3] = [
    // the number of the call is the first word (seccomp(2))
    sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
    sock_filter { code: 0x35, jt: 0, jf: 1, k: 1 << 30 },
    sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs() },
];

/// Allows what is beneath a path, if there is such a path: what reads it says what is missing.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V6) };
    rules.add_rule(PathBeneath::new(opened, access)).map_err(io::Error::other)
}
