//! llama.cpp's CPU libraries: which of them runs here, and whether it repacks weights.

use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_2::llama_backend::{LlamaBackend, load_backends_from_path};
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use llama_cpp_sys_2 as sys;

use crate::engine::{Card, Error};
use crate::units::Bytes;

/// The libraries once they are loaded.
#[derive(Debug)]
pub(super) struct Backends {
    pub(super) llama: LlamaBackend,
    /// The CPU variant that was chosen: `haswell`.
    pub(super) cpu: String,
    /// What the libraries beside the program speak to graphics processors, whether they can be loaded or not: `vulkan`.
    pub(super) built_for: Vec<String>,
}

/// Loads the libraries that lie beside the program, the best one for this CPU. Once: a
/// second loading would register the CPU twice.
pub(super) fn load() -> Result<&'static Backends, Error> {
    static LOADED: OnceLock<Result<Backends, (PathBuf, String)>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let folder = folder().map_err(|reason| (PathBuf::from("lib"), reason))?;
        load_from(&folder).map_err(|reason| (folder, reason))
    });
    loaded
        .as_ref()
        .map_err(|(path, reason)| Error::LoadBackends { path: path.clone(), reason: reason.clone() })
}

/// Returns `lib` beside the program; `BRAMBLE_BACKENDS` is for tests and for programs
/// started where cargo built them.
#[expect(clippy::disallowed_methods, reason = "one variable, for development")]
fn folder() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("BRAMBLE_BACKENDS") {
        return Ok(folder.into());
    }
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    Ok(program.parent().unwrap_or(Path::new("/")).join("lib"))
}

fn load_from(folder: &Path) -> Result<Backends, String> {
    if !folder.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    // The loader's conversion panics on anything else.
    if folder.to_str().is_none_or(|text| text.contains('\0')) {
        return Err("its path is not UTF-8".to_owned());
    }
    load_libraries(folder);
    // `init` would search the folder of the build, were nothing loaded.
    let registry = cpu_registry().ok_or("none of the libraries in it runs on this CPU")?;
    let llama = LlamaBackend::init().map_err(|error| error.to_string())?;
    let cpu = symbol(registry, c"ggml_backend_dev_get_extra_bufts")
        .and_then(|address| library_at(address as usize))
        .map_or_else(|| "unknown".to_owned(), |path| variant(&path));
    Ok(Backends { llama, cpu, built_for: built_for(folder) })
}

/// Loads those of llama.cpp's libraries in `folder` that run here, to be used as the engine uses them. Before
/// anything else is done with llama.cpp, and once. Panics where the path is not UTF-8.
pub fn load_libraries(folder: &Path) {
    load_backends_from_path(folder);
    leave_out_tiles();
}

/// Returns what the libraries in `folder` speak to graphics processors.
fn built_for(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut built: Vec<String> = names.filter_map(|name| speaks(&name).map(str::to_owned)).collect();
    built.sort();
    built
}

/// Takes `vulkan` out of `libggml-vulkan.so`; none for libraries of the CPU.
fn speaks(file: &str) -> Option<&'static str> {
    ["cuda", "vulkan"].into_iter().find(|name| {
        file.strip_prefix("libggml-").is_some_and(|rest| rest.strip_prefix(*name) == Some(".so"))
    })
}

/// Returns those of the libraries for graphics processors that were loaded: `vulkan`.
pub(super) fn spoken() -> Vec<String> {
    [c"CUDA", c"Vulkan"]
        .into_iter()
        .filter(|name| {
            #[expect(unsafe_code, reason = "not in llama-cpp-2")]
            // SAFETY: reads ggml's list of libraries, which nobody changes after loading; the name ends with a null.
            let registry = unsafe { sys::ggml_backend_reg_by_name(name.as_ptr()) };
            !registry.is_null()
        })
        .map(|name| name.to_string_lossy().to_lowercase())
        .collect()
}

/// Returns the graphics processors that llama.cpp sees, with what is free on them now.
pub(super) fn cards() -> Vec<Card> {
    let card = |device: LlamaBackendDevice| {
        let is_integrated = match device.device_type {
            LlamaBackendDeviceType::Gpu => false,
            LlamaBackendDeviceType::IntegratedGpu => true,
            _ => return None,
        };
        let free = Bytes(device.memory_free as u64);
        Some(Card { index: device.index, name: device.description, is_integrated, free })
    };
    list_llama_ggml_backend_devices().into_iter().filter_map(card).collect()
}

/// Has no weights laid out for the tiles of Intel's AMX, whose kernels die of an illegal instruction: of the 64 bytes by
/// which they set the tiles up, GCC before 12.4 and 13.3 keeps the first 8 (its bug 114098), and Debian 12 has 12.2.
fn leave_out_tiles() {
    // without a list nothing is laid out for anything
    let Ok(head) = extra_buffer_types() else { return };
    #[expect(unsafe_code, reason = "not in llama-cpp-2")]
    // SAFETY: `head` points to a vector that ends with a null, as in `with_repack`, and nobody else reads it yet: no
    // model is loaded before the libraries are. Entries only move towards its head. Their names end with a null.
    unsafe {
        let (mut from, mut to) = (head, head);
        while !from.read().is_null() {
            let name = std::ffi::CStr::from_ptr(sys::ggml_backend_buft_name(from.read()));
            if name != c"AMX" {
                to.write(from.read());
                to = to.add(1);
            }
            from = from.add(1);
        }
        while to < from {
            to.write(std::ptr::null_mut());
            to = to.add(1);
        }
    }
}

/// Runs `load` with the CPU's repacking switched on or off.
///
/// `use_extra_bufts` of llama.cpp's model parameters does just this, but llama-cpp-2 has no
/// way to set it, and its models cannot be made from a raw pointer. So the list of extra
/// buffer types, which llama.cpp asks the CPU library for while it loads a model, is cut
/// off at its head for that time. It is read nowhere else.
pub(super) fn with_repack<T>(repack: bool, load: impl FnOnce() -> T) -> Result<T, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if repack {
        return Ok(load());
    }
    let head = extra_buffer_types()?;
    #[expect(unsafe_code, reason = "llama-cpp-2 has no switch for repacking")]
    // SAFETY: `head` points to the heap of a `static std::vector` in the CPU library with
    // one element at least, the null at its end; the library stays loaded. The lock keeps
    // every other reader, which is another load of a model by this room, away.
    let taken = unsafe { head.replace(std::ptr::null_mut()) };
    let outcome = load();
    #[expect(unsafe_code, reason = "llama-cpp-2 has no switch for repacking")]
    // SAFETY: as above.
    unsafe {
        head.write(taken);
    }
    Ok(outcome)
}

fn extra_buffer_types() -> Result<*mut sys::ggml_backend_buffer_type_t, String> {
    type List = unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;
    let registry = cpu_registry().ok_or("no CPU library is loaded")?;
    let address = symbol(registry, c"ggml_backend_dev_get_extra_bufts")
        .ok_or("this CPU library has no list of extra buffer types, so repacking cannot be switched off")?;
    #[expect(unsafe_code, reason = "llama-cpp-2 has no switch for repacking")]
    // SAFETY: the name stands for a function of this type (`ggml_backend_dev_get_extra_bufts_t`
    // in ggml-backend.h), and the CPU device is there, since its registry is.
    let head = unsafe {
        let list: List = std::mem::transmute::<*mut c_void, List>(address);
        list(sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU))
    };
    if head.is_null() { Err("the CPU library has an empty list".to_owned()) } else { Ok(head) }
}

fn cpu_registry() -> Option<sys::ggml_backend_reg_t> {
    #[expect(unsafe_code, reason = "not in llama-cpp-2")]
    // SAFETY: both calls read ggml's list of devices, which nobody changes after loading.
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        (!device.is_null()).then(|| sys::ggml_backend_dev_backend_reg(device))
    }
}

fn symbol(registry: sys::ggml_backend_reg_t, name: &std::ffi::CStr) -> Option<*mut c_void> {
    let name: *const c_char = name.as_ptr();
    #[expect(unsafe_code, reason = "not in llama-cpp-2")]
    // SAFETY: the registry came from ggml, the name ends with a null.
    let address = unsafe { sys::ggml_backend_reg_get_proc_address(registry, name) };
    (!address.is_null()).then_some(address)
}

/// Finds the file that is mapped at `address`. ggml forgets which file it chose.
fn library_at(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    mapped_at(&maps, address).map(str::to_owned)
}

fn mapped_at(maps: &str, address: usize) -> Option<&str> {
    maps.lines().find_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let from = usize::from_str_radix(from, 16).ok()?;
        let to = usize::from_str_radix(to, 16).ok()?;
        (from..to).contains(&address).then(|| line.get(line.find('/')?..)).flatten()
    })
}

/// Takes `haswell` out of `…/libggml-cpu-haswell.so`.
fn variant(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".so").next().unwrap_or(file);
    stem.strip_prefix("libggml-cpu-").unwrap_or("generic").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_is_read_from_the_map_of_the_process() {
        let maps = "55d0-55d8 r--p 00000000 08:01 1 /usr/bin/x\n\
                    7f00-7fff r-xp 00001000 08:01 2                          /opt/a b/libggml-cpu-haswell.so\n";
        assert_eq!(mapped_at(maps, 0x7f10).map(variant).as_deref(), Some("haswell"));
        assert_eq!(mapped_at(maps, 0x9000), None);
        assert_eq!(variant("/lib/libggml-cpu-armv8.2_2.so"), "armv8.2_2");
    }

    #[test]
    fn what_a_library_speaks_is_told_by_its_name() {
        let files = ["libggml-vulkan.so", "libggml-cuda.so", "libggml-cpu-haswell.so", "libggml-base.so.0"];
        assert_eq!(files.map(speaks), [Some("vulkan"), Some("cuda"), None, None]);
    }
}
