//! Which blocks of a model look back through a window, in llama.cpp's graph of it.

use super::Error;
use super::checkpoint::limits;
use super::figures::Keys;
use crate::gguf::{Array, Value};

/// Architectures whose blocks take turns: every so many blocks, one looks back on everything.
///
/// `load_swa_pattern` in `src/models/*.cpp` of the llama.cpp in llama-cpp-sys-2 0.1.161. The
/// second number is the window where a file names none. Windows of others are taken to save
/// nothing, since what they save is not measured.
const TURNS: [(&str, usize, Option<u32>); 2] = [("gemma2", 2, Some(4096)), ("gemma3", 6, None)];

/// Architectures that may come with a sliding window which llama.cpp's graph of them leaves
/// out, and the engine, too: longer contexts than the window are not what the model computes.
///
/// Every other architecture whose files name a window reads the key (`src/models/*.cpp` of the
/// llama.cpp in llama-cpp-sys-2 0.1.161), or the engine puts it in ([`crate::gguf::Window`]).
const WINDOW_LEFT_OUT: [&str; 2] = ["qwen2", "qwen3"];

/// Returns whether a window of an architecture is left out.
pub(super) fn is_left_out(architecture: &str) -> bool {
    WINDOW_LEFT_OUT.contains(&architecture)
}

/// Returns for each block whether it looks back through the window only, by the turns that are
/// usual; empty where none does.
pub(super) fn turns(architecture: &str, layers: u32) -> Vec<bool> {
    let turn = TURNS.iter().find(|(name, ..)| *name == architecture).map(|(_, turn, _)| *turn);
    turn.map_or(Vec::new(), |turn| in_turns(turn, layers))
}

fn in_turns(turn: usize, layers: u32) -> Vec<bool> {
    (0..layers as usize).map(|block| block % turn < turn - 1).collect()
}

/// Returns the window that llama.cpp takes where the file names none.
pub(super) fn usual(architecture: &str) -> Option<u32> {
    TURNS.iter().find(|(name, ..)| *name == architecture).and_then(|(_, _, window)| *window)
}

/// Returns for each block whether it looks back through the window only; empty where none does.
pub(super) fn windowed(keys: &Keys<'_>, architecture: &str, layers: u32) -> Result<Vec<bool>, Error> {
    let Some((_, turn, usual)) = TURNS.iter().find(|(name, ..)| *name == architecture) else {
        return Ok(Vec::new());
    };
    let window = keys.get(&format!("{architecture}.attention.sliding_window")).and_then(Value::as_u64);
    if window.map_or(usual.is_none(), |window| window == 0) {
        return Ok(Vec::new());
    }
    let key = format!("{architecture}.attention.sliding_window_pattern");
    let wrong = || Error::GgufKey { key: key.clone() };
    let windowed: Vec<bool> = match keys.get(&key).and_then(Value::as_array) {
        Some(Array::Bool(each)) => each.clone(),
        Some(list) => list.as_u64s().ok_or_else(wrong)?.into_iter().map(|is| is > 0).collect(),
        None => {
            let named = keys.optional(&key, limits::LAYERS)?;
            let turn = named.map_or(*turn, |turn| turn as usize);
            in_turns(turn, layers)
        }
    };
    if windowed.len() == layers as usize { Ok(windowed) } else { Err(wrong()) }
}
