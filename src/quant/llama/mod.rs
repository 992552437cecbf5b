//! Quantizing, by llama.cpp: one of the two files that name it.
//!
//! Called in a process of its own, by `brambled quantize`: llama.cpp aborts the process
//! where it finds something wrong, and can neither be stopped nor asked how far it is.
#![expect(unsafe_code, reason = "the safe wrapper does not offer quantization")]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Quant;

pub(super) use chunk::{decode, encode};

mod chunk;

/// What llama.cpp may hold of a tensor at once. Its default of 8 GiB is more than a desktop
/// may have left; with this, a model of 7B shapes took 311 MB in all, and no more time.
const BUFFER: usize = 64 << 20;

/// Why a model was not quantized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path can not be handed to C.
    #[error("{} has a NUL byte in it", .0.display())]
    Path(PathBuf),
    /// llama.cpp says no, and has logged why.
    #[error("llama.cpp did not quantize {} to {quant}; its log says why", input.display())]
    Refused {
        /// What was to be quantized.
        input: PathBuf,
        /// To what.
        quant: Quant,
    },
}

/// How llama.cpp is to work, which changes nothing in what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Threads; 0 takes one for each core.
    pub threads: u32,
    /// Bytes of a tensor that it may hold at once.
    pub buffer: usize,
}

impl Effort {
    /// Returns the usual effort with `threads`.
    pub const fn threads(threads: u32) -> Self {
        Self { threads, buffer: BUFFER }
    }
}

/// Quantizes the GGUF `input`, of floats, to `output`. Blocks for as long as it takes.
///
/// No backend is needed, so none is loaded. What is at `output` is overwritten from the
/// start on: give a path that nothing reads.
pub fn quantize(input: &Path, output: &Path, quant: Quant, effort: Effort) -> Result<(), Error> {
    let c_string =
        |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Path(path.to_owned()));
    let (from, to) = (c_string(input)?, c_string(output)?);
    // SAFETY: takes no arguments and returns a plain value.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    params.nthread = i32::try_from(effort.threads).unwrap_or(i32::MAX);
    params.ftype = quant.ftype();
    params.max_buf_size = effort.buffer;
    // SAFETY: both strings end with NUL and outlive the call, as do the parameters, whose
    // pointers are all null: no imatrix, no overrides, no pruning.
    let code =
        unsafe { llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params) };
    if code == 0 { Ok(()) } else { Err(Error::Refused { input: input.to_owned(), quant }) }
}
