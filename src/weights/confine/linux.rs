use std::path::{Path, PathBuf};
use std::{fs, io};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::Order;

/// What nothing that makes weights asks of the kernel, and what a fault in it would be used for: to speak with others
/// (Landlock knows TCP's ports, and leaves UDP, and the sockets of agents and of container engines), to look into other
/// processes, to become another program, and the parts of the kernel in which most faults were found. `io_uring` does in the
/// kernel what no filter sees.
const REFUSED: [libc::c_long; 44] = [
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
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
];

/// How deep a source's folder is looked through for links, and how many entries are looked at.
const DEEPEST: u32 = 4;
const MOST_ENTRIES: usize = 100_000;

/// Gives up all files but those of the order, the network, signals to others and [`REFUSED`]. Returns whether this kernel keeps it from files.
///
/// # Errors
/// A folder of the order is not there.
pub(super) fn confine(order: &Order) -> io::Result<bool> {
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
    let mut links = Vec::new();
    find_links(&order.source, 0, &mut links);
    for path in [&order.source].into_iter().chain(&order.imatrix).chain(&links) {
        rules = allow(rules, path, read)?;
    }
    for output in &order.outputs {
        let folder = output.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let write = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
        rules = allow(rules, folder, write | AccessFs::ReadDir)?;
    }
    // how many cores there are, as limits of a container have it
    for path in ["/proc/self", "/sys/fs/cgroup", "/sys/devices/system/cpu"] {
        rules = allow(rules, Path::new(path), read)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
    if let Err(error) = refuse_calls() {
        // as without Landlock, there is less then
        tracing::info!("this kernel keeps no filter of calls: {error}");
    }
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Has the kernel refuse [`REFUSED`] to this thread and to those that it starts, for good.
fn refuse_calls() -> Result<(), seccompiler::Error> {
    let refused = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // calls of another architecture end the process
    let filter: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, eperm, arch)?.try_into()?;
    seccompiler::apply_filter(&filter)
}

/// Allows what is beneath a path, if there is such a path: what reads it says what is missing.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V6) };
    rules.add_rule(PathBeneath::new(opened, access)).map_err(io::Error::other)
}

/// Finds what links in a folder lead to: in the store, a checkpoint is a folder of links to blobs.
fn find_links(folder: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().take(MOST_ENTRIES) {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() && found.len() < MOST_ENTRIES {
            // one that leads nowhere is found by whoever reads it
            found.extend(fs::canonicalize(entry.path()).ok().filter(|target| target.is_file()));
        } else if kind.is_dir() && depth < DEEPEST {
            find_links(&entry.path(), depth + 1, found);
        }
    }
}
