//! What is done between two nodes of llama.cpp's graphs: windows that its graphs leave out are put into their masks,
//! and what a model has made of a text is copied out.
//!
//! llama.cpp lets a program look on while it computes: before each node it asks whether the program wants to see it, and
//! goes no further than a node that is wanted. A mask is written before the graph is computed and read by the attention
//! of every block, so that it can be changed from block to block by whoever looks on.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as sys;

use super::context::inner;
use super::position;
use crate::engine::{Caches, Token};
use crate::gguf::Window;
use crate::units::Bytes;

/// The node in which the last block's result is normalized: what the head makes scores of. llama.cpp names it so in
/// every graph (`cb(cur, "result_norm", -1)` in `src/models/*.cpp`).
const STATE: &[u8] = b"result_norm";

/// A context of llama.cpp that is looked at while it computes.
#[derive(Debug)]
pub struct Watched<'model> {
    context: LlamaContext<'model>,
    /// The context calls it until it is dropped, which is before this: fields go in their order.
    watch: Box<Watch>,
}

impl<'model> Watched<'model> {
    /// Makes a context for `model`, whose blocks look back through `window`, where llama.cpp's graph has none.
    ///
    /// # Errors
    /// llama.cpp's own, as text.
    pub fn new(
        model: &'model LlamaModel,
        backend: &LlamaBackend,
        mut params: LlamaContextParams,
        window: Option<Window>,
    ) -> Result<Self, String> {
        let watch = Box::new(Watch { window, ..Watch::default() });
        let inner = inner(&mut params);
        inner.cb_eval = Some(between);
        inner.cb_eval_user_data = (&raw const *watch).cast_mut().cast();
        let context = model.new_context(backend, params).map_err(|error| error.to_string())?;
        Ok(Self { context, watch })
    }

    /// Computes a batch.
    ///
    /// # Errors
    /// llama.cpp's own, as text, or that its graph is not what is known of it.
    pub fn decode(&mut self, batch: &mut LlamaBatch<'_>) -> Result<(), String> {
        let outcome = self.context.decode(batch).map_err(|error| error.to_string());
        let mut seen = self.watch.seen.borrow_mut();
        let block = std::mem::take(&mut seen.block);
        match seen.failure.take() {
            Some(failure) => Err(failure),
            None if outcome.is_ok() && block > 0 => {
                Err("llama.cpp's graph has another number of blocks than the model".to_owned())
            }
            None => outcome,
        }
    }

    /// Computes a batch that has one output, and returns what the model has made of that: the last block's result,
    /// normalized as the head takes it, as many numbers as the model is wide.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn state(&mut self, batch: &mut LlamaBatch<'_>) -> Result<Vec<f32>, String> {
        self.watch.wants_state.set(true);
        let outcome = self.decode(batch);
        self.watch.wants_state.set(false);
        let state = std::mem::take(&mut self.watch.seen.borrow_mut().state);
        outcome?;
        if state.is_empty() { Err("llama.cpp's graph shows no result".to_owned()) } else { Ok(state) }
    }

    /// Empties the cache of a sequence from a position on; of all sequences where none is named. Tells whether that can be.
    pub(super) fn forget(&mut self, sequence: Option<u32>, from: Option<u32>) -> bool {
        match sequence {
            None => self.context.clear_kv_cache(),
            Some(_) => return matches!(self.context.clear_kv_cache_seq(sequence, from, None), Ok(true)),
        }
        true
    }
}

impl Watched<'_> {
    /// Makes the cache of one sequence the same as another's. The whole of it, as sequences have buffers of their own:
    /// llama.cpp aborts when asked for a part.
    pub(super) fn copy(&mut self, from: i32, to: i32) {
        self.forget(u32::try_from(to).ok(), None);
        // no position is given that could be too large
        let _ = self.context.copy_kv_cache_seq(from, to, None, None);
    }
}

/// llama.cpp writes and reads row by row, so that no second copy of a cache is in memory.
impl Caches for Watched<'_> {
    fn size(&self, slot: usize) -> Bytes {
        let size =
            position(slot).map(|slot| self.context.state_seq_get_size_ext(slot, LlamaStateSeqFlags::empty()));
        Bytes(size.map_or(0, |size| size as u64))
    }

    fn write(&self, slot: usize, tokens: &[Token], path: &Path) -> Result<(), String> {
        let tokens: Vec<_> = tokens.iter().copied().map(LlamaToken::new).collect();
        let written = self.context.state_seq_save_file(path, position(slot)?, &tokens);
        written.map(drop).map_err(|error| error.to_string())
    }

    fn read(&mut self, slot: usize, most: usize, path: &Path) -> Result<Vec<Token>, String> {
        let read = self.context.state_seq_load_file(path, position(slot)?, most);
        let tokens = read.map(|(tokens, _)| tokens.into_iter().map(|token| token.0).collect());
        tokens.map_err(|error| {
            self.forget(u32::try_from(slot).ok(), None);
            error.to_string()
        })
    }
}

/// What is computed can be looked at; what computes goes by the methods above.
impl<'model> std::ops::Deref for Watched<'model> {
    type Target = LlamaContext<'model>;

    fn deref(&self) -> &Self::Target {
        &self.context
    }
}

/// Looks on.
#[derive(Debug, Default)]
struct Watch {
    window: Option<Window>,
    wants_state: Cell<bool>,
    seen: RefCell<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The block whose attention comes next.
    block: usize,
    /// The mask of this graph, as llama.cpp wrote it.
    whole: Vec<u8>,
    /// The same with the window; empty where that hides nothing more.
    narrow: Vec<u8>,
    /// Whether the tensor holds the narrow one now.
    is_narrow: bool,
    /// What was copied out.
    state: Vec<f32>,
    failure: Option<String>,
}

impl Watch {
    /// Tells whether `node` must be seen once it is computed. Those before it are, or need nothing that is changed here.
    fn before(&self, node: &sys::ggml_tensor) -> bool {
        let mask = match node.op {
            sys::GGML_OP_FLASH_ATTN_EXT => node.src[3],
            sys::GGML_OP_SOFT_MAX => node.src[1],
            _ => return self.wants_state.get() && name(node) == STATE,
        };
        let Some(window) = self.window.as_ref().filter(|_| !mask.is_null()) else { return false };
        let mut seen = self.seen.borrow_mut();
        match seen.put(window, mask) {
            Ok(has_changed) => has_changed,
            Err(reason) => {
                seen.failure = Some(reason);
                true
            }
        }
    }

    /// Takes a node that was wanted. Tells whether to go on.
    fn after(&self, node: &sys::ggml_tensor) -> bool {
        let mut seen = self.seen.borrow_mut();
        if self.wants_state.get() && name(node) == STATE {
            let mut bytes = Vec::new();
            get(node, &mut bytes);
            seen.state = bytes.as_chunks().0.iter().map(|four| f32::from_ne_bytes(*four)).collect();
        }
        seen.failure.is_none()
    }
}

impl Seen {
    /// Puts the mask in place that the next block needs. Returns whether nothing behind its attention may be computed yet:
    /// where a later block needs another one.
    fn put(&mut self, window: &Window, mask: *mut sys::ggml_tensor) -> Result<bool, String> {
        #[expect(unsafe_code, reason = "llama.cpp's tensors are behind pointers")]
        // SAFETY: an operand of a node that llama.cpp is about to compute, while it waits for us.
        let tensor = unsafe { &*mask };
        let block = self.block;
        let looks_through = *window.blocks.get(block).ok_or("the model has no blocks")?;
        // a graph's blocks come in their order, and the next graph's behind them
        self.block = (block + 1) % window.blocks.len();
        if block == 0 {
            get(tensor, &mut self.whole);
            let width = usize::try_from(tensor.ne[0]).unwrap_or(0);
            self.narrow = match tensor.type_ {
                sys::GGML_TYPE_F16 => narrowed::<2>(&self.whole, width, window.tokens, [0x00, 0xfc])?,
                sys::GGML_TYPE_F32 => {
                    narrowed::<4>(&self.whole, width, window.tokens, f32::NEG_INFINITY.to_le_bytes())?
                }
                other => return Err(format!("llama.cpp's mask is of type {other}")),
            };
            self.is_narrow = false;
        }
        if self.narrow.is_empty() {
            return Ok(false);
        }
        if looks_through != self.is_narrow {
            let bytes = if looks_through { &self.narrow } else { &self.whole };
            #[expect(unsafe_code, reason = "llama.cpp's tensors are behind pointers")]
            // SAFETY: the bytes are as many as the tensor has: `whole` was copied out of it, and both are of a length.
            unsafe {
                sys::ggml_backend_tensor_set(mask, bytes.as_ptr().cast(), 0, bytes.len());
            }
            self.is_narrow = looks_through;
        }
        Ok(window.blocks[block..].iter().any(|other| *other != looks_through))
    }
}

/// Hides in each row of a mask, `width` cells of `N` bytes, all but the last `window` of the cells that it shows. Returns
/// nothing where no row shows more.
///
/// A row shows the cells of its own token and of those before it, in order, since slots are filled from the front and
/// never moved; another order is an error.
fn narrowed<const N: usize>(
    mask: &[u8],
    width: usize,
    window: usize,
    hidden: [u8; N],
) -> Result<Vec<u8>, String> {
    let (cells, rest) = mask.as_chunks::<N>();
    if width == 0 || !rest.is_empty() || !cells.len().is_multiple_of(width) {
        return Err("llama.cpp's mask has no rows".to_owned());
    }
    let mut narrow = Vec::new();
    for (row, cells) in cells.chunks_exact(width).enumerate() {
        let shown = cells.iter().take_while(|cell| **cell == [0; N]).count();
        if cells[shown..].contains(&[0; N]) {
            return Err("llama.cpp's cache is not in the order of the text".to_owned());
        }
        if shown > window {
            if narrow.is_empty() {
                narrow = mask.to_vec();
            }
            let first = row * width * N;
            for cell in narrow[first..][..(shown - window) * N].as_chunks_mut::<N>().0 {
                *cell = hidden;
            }
        }
    }
    Ok(narrow)
}

/// Copies a tensor's bytes.
fn get(tensor: &sys::ggml_tensor, bytes: &mut Vec<u8>) {
    #[expect(unsafe_code, reason = "llama.cpp's tensors are behind pointers")]
    // SAFETY: a tensor that lies in memory, since it was or is about to be computed with; as many bytes are written as
    // there is room for.
    unsafe {
        bytes.resize(sys::ggml_nbytes(tensor), 0);
        sys::ggml_backend_tensor_get(tensor, bytes.as_mut_ptr().cast(), 0, bytes.len());
    }
}

fn name(node: &sys::ggml_tensor) -> &[u8] {
    let bytes: &[u8; 64] = bytes_of(&node.name);
    CStr::from_bytes_until_nul(bytes).map_or(&[], CStr::to_bytes)
}

fn bytes_of(name: &[c_char; 64]) -> &[u8; 64] {
    #[expect(unsafe_code, reason = "a C string's characters are signed on some machines")]
    // SAFETY: bytes, signed or not, are of one size, and any is valid.
    unsafe {
        &*(&raw const *name).cast()
    }
}

#[expect(unsafe_code, reason = "llama.cpp calls it")]
unsafe extern "C" fn between(node: *mut sys::ggml_tensor, asks: bool, data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Watch` that was set, which outlives the context and is used by the thread that computes
    // alone; `node` is of the graph that llama.cpp computes, and it waits for us.
    let (watch, node) = unsafe { (&*data.cast::<Watch>(), &*node) };
    if asks { watch.before(node) } else { watch.after(node) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: [u8; 2] = [0x00, 0xfc];

    /// A mask by its rows: `.` is shown, `x` is hidden.
    fn mask(rows: &[&str]) -> Vec<u8> {
        rows.concat().chars().flat_map(|cell| if cell == '.' { [0; 2] } else { HIDDEN }).collect()
    }

    #[test]
    fn a_window_shows_the_last_tokens_of_each_row() {
        let whole = mask(&["..xxxx", "...xxx", "....xx", "xxxxxx"]);
        let narrow = narrowed(&whole, 6, 2, HIDDEN).unwrap();
        assert_eq!(narrow, mask(&["..xxxx", "x..xxx", "xx..xx", "xxxxxx"]));
        assert!(narrowed(&whole, 6, 4, HIDDEN).unwrap().is_empty(), "no row shows more than four");
    }

    #[test]
    fn a_cache_in_another_order_is_an_error() {
        assert!(narrowed(&mask(&["..x.xx"]), 6, 2, HIDDEN).is_err());
        assert!(narrowed(&mask(&["x..xxx"]), 6, 2, HIDDEN).is_err());
        assert!(narrowed(&mask(&["...xx"]), 6, 2, HIDDEN).is_err());
    }
}
