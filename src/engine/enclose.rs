use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::serve::Setup;
use crate::confine::{Needs, confine};
use crate::generation::Layout;
use crate::ids::ModelName;

/// What the loader of programs, llama.cpp and drivers of graphics processors read of a system, and what [`crate::vitals`] does.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/vulkan",
    "/etc/OpenCL",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/driver/nvidia",
    "/sys",
];

/// Graphics processors, beside NVIDIA's, and what keeps nothing.
const DEVICES: [&str; 3] = ["/dev/dri", "/dev/kfd", "/dev/null"];

/// Gives up what the engine of `model` does not need, for good, where nothing else encloses it: without systemd, and under a
/// login's where the kernel lets nobody make namespaces. To be called before [`super::serve`], while there is one thread.
///
/// # Errors
/// There is nothing that could be served, another engine serves it, or something cannot be given up.
pub fn enclose(root: &Path, model: &ModelName) -> Result<(), Error> {
    let setup = Setup::read(root, model)?;
    // afterwards it could not ask who listens
    setup.free_socket()?;
    let run = setup.layout.run_dir();
    let cannot = |source| Error::Start { what: "with what it needs alone", source };
    if !confine(&needs(&setup, run)).map_err(cannot)? {
        tracing::warn!("this kernel has no Landlock: the engine could read other files of its user");
    }
    Ok(())
}

fn needs(setup: &Setup, run: PathBuf) -> Needs {
    let definition = Layout::definition(&setup.layout.current());
    let mut reads = vec![definition, setup.weights.clone()];
    reads.extend(programs());
    reads.extend(SYSTEM.map(PathBuf::from));
    let mut keeps = Vec::new();
    if setup.spec.keep_prompts {
        let folder = setup.layout.kept_prompts(&setup.spec.model);
        // where it cannot be made, no prompts are kept, which the engine says then
        drop(super::kept::make(&folder));
        keeps.push(folder);
    }
    let mut devices: Vec<PathBuf> = DEVICES.map(PathBuf::from).into();
    let others = fs::read_dir("/dev").into_iter().flatten().flatten();
    devices.extend(
        others
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"))
            .map(|entry| entry.path()),
    );
    Needs { reads, keeps, devices, owns_all: true, listens: Some(run) }
}

/// Returns where the program and llama.cpp's libraries are.
#[expect(clippy::disallowed_methods, reason = "the variable of `llama/backends`, for development")]
fn programs() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let own = program.as_deref().and_then(Path::parent).map(Path::to_owned);
    own.into_iter().chain(std::env::var_os("BRAMBLE_BACKENDS").map(PathBuf::from)).collect()
}
