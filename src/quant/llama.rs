//! Encoding and decoding blocks, by llama.cpp: one of the two files that name it.
//!
//! llama.cpp aborts the process where it finds something wrong, so this runs in a process
//! of its own, and wants what its caller has checked.
#![expect(unsafe_code, reason = "the safe wrapper does not offer quantization")]

use std::ffi::c_void;

use super::TensorType;
use super::kernel::Fault;

/// Encodes whole rows of `row` values with llama.cpp's own function, appending to `out`.
///
/// Wants what [`super::kernel::encode`] has checked: whole rows of whole blocks,
/// importance for each column, and a type that it encodes.
pub(in crate::quant) fn encode(
    kind: TensorType,
    row: usize,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let shape = Fault::Shape { row, kind };
    let rows = values.len().checked_div(row).ok_or(shape)?;
    let row_bytes = kind.row_bytes(row as u64).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(shape)?;
    let (Ok(count), Ok(width)) = (i64::try_from(rows), i64::try_from(row)) else { return Err(shape) };
    if values.len() != rows * row || importance.is_some_and(|weights| weights.len() != row) {
        return Err(shape);
    }
    let begun = out.len();
    out.resize(begun + rows * row_bytes, 0);
    let target = &mut out[begun..];
    let weights = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: `values` holds rows * row floats, `target` as many bytes as blocks of them take, and
    // `weights` is null or one float for each column; all outlive the call, which keeps none.
    let written = unsafe {
        llama_cpp_sys_2::ggml_quantize_chunk(
            kind.code(),
            values.as_ptr(),
            target.as_mut_ptr().cast::<c_void>(),
            0,
            count,
            width,
            weights,
        )
    };
    if written != target.len() {
        return Err(shape);
    }
    // SAFETY: `target` holds `written` bytes of whole blocks.
    let is_sound = unsafe {
        llama_cpp_sys_2::ggml_validate_row_data(kind.code(), target.as_ptr().cast::<c_void>(), written)
    };
    if is_sound { Ok(()) } else { Err(Fault::NotFinite(kind)) }
}

/// Decodes whole blocks, appending their values to `out`.
pub(in crate::quant) fn decode(kind: TensorType, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), Fault> {
    let unknown = Fault::Shape { row: 0, kind };
    let (Ok(block), Ok(block_bytes)) =
        (usize::try_from(kind.block_len()), usize::try_from(kind.block_bytes()))
    else {
        return Err(unknown);
    };
    if !bytes.len().is_multiple_of(block_bytes) {
        return Err(unknown);
    }
    let count = bytes.len() / block_bytes * block;
    let in_c = i64::try_from(count).map_err(|_| unknown)?;
    // SAFETY: every `TensorType` has ggml's own number; the traits are constants of the library.
    let traits = unsafe { llama_cpp_sys_2::ggml_get_type_traits(kind.code()).as_ref() };
    let to_float = traits.and_then(|traits| traits.to_float).ok_or(unknown)?;
    let begun = out.len();
    out.resize(begun + count, 0.0);
    let target = &mut out[begun..];
    // SAFETY: `bytes` are whole blocks of this type, and `target` has room for their values.
    unsafe { to_float(bytes.as_ptr().cast::<c_void>(), target.as_mut_ptr(), in_c) };
    Ok(())
}
