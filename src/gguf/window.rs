use super::{Array, Error, Value};

/// Architectures whose blocks may look back through a window that llama.cpp's graph of them leaves out, and that the
/// engine puts in. `src/models/*.cpp` of the llama.cpp in llama-cpp-sys-2 0.1.161; that of Phi-3 reads the key and
/// switches it off.
const LEFT_OUT: [&str; 3] = ["gpt2", "llama", "phi3"];

/// The window through which blocks of a model look back, where llama.cpp's graph of it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// So many tokens are seen, the token itself among them.
    pub tokens: usize,
    /// Of each block: whether it looks through the window. The others see everything.
    pub blocks: Vec<bool>,
}

impl Window {
    /// Reads it off a GGUF's keys, by `get`; none where there is none, or where llama.cpp sees to it.
    ///
    /// # Errors
    /// [`Error::Malformed`] names the key that is missing or not to be believed.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a Value>) -> Result<Option<Self>, Error> {
        let architecture = get("general.architecture").and_then(Value::as_str).unwrap_or_default();
        if !LEFT_OUT.contains(&architecture) {
            return Ok(None);
        }
        let key = |name: &str| format!("{architecture}.{name}");
        let wrong = |name: &str| Error::Malformed(format!("its key {}", key(name)));
        let number = |name: &str| {
            get(&key(name))
                .map(|value| {
                    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                    number.ok_or_else(|| wrong(name))
                })
                .transpose()
        };
        // some converters write 0 where there is no window
        let Some(tokens) = number("attention.sliding_window")?.filter(|tokens| *tokens > 0) else {
            return Ok(None);
        };
        let count = number("block_count")?.ok_or_else(|| wrong("block_count"))?;
        let pattern = "attention.sliding_window_pattern";
        let blocks = match get(&key(pattern)).map(Value::as_array) {
            None => vec![true; count],
            Some(Some(Array::Bool(blocks))) if blocks.len() == count => blocks.clone(),
            Some(_) => return Err(wrong(pattern)),
        };
        Ok(Some(Self { tokens, blocks }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(architecture: &str, own: &[(&str, Value)]) -> Result<Option<Window>, Error> {
        let mut keys = BTreeMap::from([("general.architecture".to_owned(), Value::from(architecture))]);
        keys.extend(own.iter().map(|(key, value)| (format!("{architecture}.{key}"), value.clone())));
        Window::read(|key| keys.get(key))
    }

    #[test]
    fn a_window_is_of_the_blocks_that_the_pattern_names_or_of_all() {
        let mut keys = vec![("block_count", 3.into()), ("attention.sliding_window", 256.into())];
        let of = |blocks: [bool; 3]| Some(Window { tokens: 256, blocks: blocks.into() });
        assert_eq!(read("llama", &keys).unwrap(), of([true; 3]));
        keys.push(("attention.sliding_window_pattern", Value::Array(Array::Bool(vec![false, true, false]))));
        assert_eq!(read("gpt2", &keys).unwrap(), of([false, true, false]));
        assert_eq!(read("gemma3", &keys).unwrap(), None, "llama.cpp's graph has it");
    }

    #[test]
    fn no_window_or_one_of_nothing_is_none() {
        assert_eq!(read("llama", &[("block_count", 3.into())]).unwrap(), None);
        let keys = [("block_count", 3.into()), ("attention.sliding_window", 0.into())];
        assert_eq!(read("phi3", &keys).unwrap(), None);
    }

    #[test]
    fn a_pattern_of_another_length_is_named() {
        let pattern = Value::Array(Array::Bool(vec![true; 2]));
        let keys = [
            ("block_count", 3.into()),
            ("attention.sliding_window", 4.into()),
            ("attention.sliding_window_pattern", pattern),
        ];
        let error = read("gpt2", &keys).unwrap_err().to_string();
        assert!(error.contains("gpt2.attention.sliding_window_pattern"), "{error}");
    }
}
