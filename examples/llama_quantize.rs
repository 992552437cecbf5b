//! llama.cpp's own quantizer as a program, to be measured beside: `llama_quantize IN OUT QUANT`.
#![expect(unsafe_code, reason = "the safe wrapper does not offer quantization")]

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::thread::available_parallelism;

use bramble_fleet::quant::Quant;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let mut path = || CString::new(arguments.next()?.into_vec()).ok();
    let (Some(input), Some(output)) = (path(), path()) else {
        return fail("usage: llama_quantize IN OUT QUANT");
    };
    let quant = arguments.next().and_then(|name| name.to_str()?.parse::<Quant>().ok());
    let Some(quant) = quant else { return fail("the third argument is no quant") };
    // SAFETY: takes no arguments and returns a plain value.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    params.ftype = quant.ftype();
    params.nthread =
        available_parallelism().ok().and_then(|count| i32::try_from(count.get()).ok()).unwrap_or(1);
    // SAFETY: both paths end with NUL and outlive the call, as the parameters do.
    let code =
        unsafe { llama_cpp_sys_2::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const params) };
    if code == 0 { ExitCode::SUCCESS } else { fail("llama.cpp does not quantize it") }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn fail(words: &str) -> ExitCode {
    eprintln!("{words}");
    ExitCode::FAILURE
}
