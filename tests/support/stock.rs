//! llama.cpp's own quantizer, from file to file: what ours is held to.
#![expect(unsafe_code, reason = "the safe wrapper does not offer quantization")]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bramble_fleet::quant::Quant;

/// Quantizes the GGUF `input` to `output` on every core, guided by what the columns of tensors
/// weigh. Panics where llama.cpp does not.
pub(crate) fn quantize(input: &Path, output: &Path, quant: Quant, imatrix: &[(String, Vec<f32>)]) {
    let in_c = |bytes: &[u8]| CString::new(bytes).unwrap();
    let (from, to) = (in_c(input.as_os_str().as_bytes()), in_c(output.as_os_str().as_bytes()));
    let names: Vec<CString> = imatrix.iter().map(|(name, _)| in_c(name.as_bytes())).collect();
    let mut entries: Vec<llama_cpp_sys_2::llama_model_imatrix_data> = names
        .iter()
        .zip(imatrix)
        .map(|(name, (_, values))| llama_cpp_sys_2::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: values.as_ptr(),
            size: values.len(),
        })
        .collect();
    // the list ends with an entry without a name
    entries.push(llama_cpp_sys_2::llama_model_imatrix_data {
        name: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
    });
    // SAFETY: takes no arguments and returns a plain value.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    params.nthread = i32::try_from(cores).unwrap();
    params.ftype = quant.ftype();
    params.allow_requantize = true;
    if !imatrix.is_empty() {
        params.imatrix = entries.as_ptr();
    }
    // SAFETY: all strings end with NUL, and they and the entries outlive the call.
    let code =
        unsafe { llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params) };
    assert_eq!(code, 0, "llama.cpp does not quantize {} to {quant}", input.display());
}
