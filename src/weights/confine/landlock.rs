use std::path::{Path, PathBuf};
use std::{fs, io};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::Order;

/// How deep a source's folder is looked through for links, and how many entries are looked at.
const DEEPEST: u32 = 4;
const MOST_ENTRIES: usize = 100_000;

/// Gives up all files but those of the order, the network, and signals to others. Returns whether this kernel keeps it from them.
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
    Ok(status.ruleset != RulesetStatus::NotEnforced)
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
