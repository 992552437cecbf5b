//! Holds the tensors that a header lists to its figures.

use std::collections::BTreeMap;

use super::{Error, ModelFacts, TensorShape};

/// Architectures whose tensors are known by name and shape.
const KNOWN: [&str; 13] = [
    "bloom", "gemma", "gemma2", "gemma3", "gpt2", "gptneox", "llama", "phi2", "phi3", "qwen2", "qwen3",
    "smollm3", "t5",
];

/// Those of them whose feed-forward part has no gate, or has it in one with `ffn_up`, or may
/// have none.
const WITHOUT_GATE: [&str; 6] = ["bloom", "gpt2", "gptneox", "phi2", "phi3", "t5"];

/// Checks that what a model is computed with is there, and of the shapes that its figures
/// tell; each tensor once. Of architectures that are not known, it is the embedding alone.
pub(super) fn check(facts: &ModelFacts, tensors: &[TensorShape]) -> Result<(), Error> {
    let mut shapes: BTreeMap<&str, &[u64]> = BTreeMap::new();
    for tensor in tensors {
        if shapes.insert(&tensor.name, &tensor.shape).is_some() {
            return Err(Error::Twice { name: short(&tensor.name) });
        }
    }
    let listed = Listed { facts, shapes };
    listed.has("token_embd.weight", &[facts.hidden.into(), facts.vocab.into()])?;
    if !KNOWN.contains(&facts.architecture.as_str()) {
        return Ok(());
    }
    if facts.architecture == "t5" {
        let decoder_layers = facts.decoder_layers.unwrap_or(facts.layers);
        (0..facts.layers).try_for_each(|block| listed.has_block("enc.blk", block))?;
        return (0..decoder_layers).try_for_each(|block| listed.has_block("dec.blk", block));
    }
    listed.has("output_norm.weight", &[facts.hidden.into()])?;
    (0..facts.layers).try_for_each(|block| listed.has_block("blk", block))
}

struct Listed<'a> {
    facts: &'a ModelFacts,
    shapes: BTreeMap<&'a str, &'a [u64]>,
}

impl Listed<'_> {
    fn has(&self, name: &str, expected: &[u64]) -> Result<(), Error> {
        let shape = *self.shapes.get(name).ok_or_else(|| Error::Missing { name: name.to_owned() })?;
        if shape == expected {
            return Ok(());
        }
        Err(Error::Tensor { name: name.to_owned(), shape: shape.iter().copied().take(8).collect() })
    }

    fn has_block(&self, stack: &str, block: u32) -> Result<(), Error> {
        let facts = self.facts;
        let kv_heads = facts.kv_heads_of(block);
        let [hidden, feed_forward, heads, kv_heads, head_dim, width] =
            [facts.hidden, facts.feed_forward, facts.heads, kv_heads, facts.head_dim, facts.value_width()]
                .map(u64::from);
        let (queries, keys, values) = (heads * head_dim, kv_heads * head_dim, kv_heads * width);
        let named = |part: &str| format!("{stack}.{block}.{part}.weight");
        if self.shapes.contains_key(named("attn_qkv").as_str()) {
            self.has(&named("attn_qkv"), &[hidden, queries + keys + values])?;
        } else {
            self.has(&named("attn_q"), &[hidden, queries])?;
            self.has(&named("attn_k"), &[hidden, keys])?;
            self.has(&named("attn_v"), &[hidden, values])?;
        }
        let output = if facts.architecture == "t5" { "attn_o" } else { "attn_output" };
        self.has(&named(output), &[heads * width, hidden])?;
        // of a mixture of experts
        if self.shapes.contains_key(named("ffn_gate_inp").as_str()) {
            return Ok(());
        }
        if !WITHOUT_GATE.contains(&facts.architecture.as_str()) {
            self.has(&named("ffn_gate"), &[hidden, feed_forward])?;
        }
        let up = if facts.architecture == "phi3" { 2 * feed_forward } else { feed_forward };
        self.has(&named("ffn_up"), &[hidden, up])?;
        self.has(&named("ffn_down"), &[feed_forward, hidden])
    }
}

fn short(name: &str) -> String {
    name.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{NewHeader, NewTensor, Value};
    use crate::ids::Digest;
    use crate::quant::TensorType;
    use crate::source::{Pinned, PinnedFile};
    use crate::units::Bytes;

    /// Names and shapes of a llama of one block.
    fn tensors() -> Vec<(String, Vec<u64>)> {
        let of = |name: &str, shape: &[u64]| (format!("{name}.weight"), shape.to_vec());
        vec![
            of("token_embd", &[64, 100]),
            of("blk.0.attn_norm", &[64]),
            of("blk.0.attn_q", &[64, 64]),
            of("blk.0.attn_k", &[64, 32]),
            of("blk.0.attn_v", &[64, 32]),
            of("blk.0.attn_output", &[64, 64]),
            of("blk.0.ffn_norm", &[64]),
            of("blk.0.ffn_gate", &[64, 128]),
            of("blk.0.ffn_up", &[64, 128]),
            of("blk.0.ffn_down", &[128, 64]),
            of("output_norm", &[64]),
        ]
    }

    fn header(tensors: &[(String, Vec<u64>)]) -> NewHeader {
        let number = |key: &str, number: u32| (format!("llama.{key}"), Value::from(number));
        let metadata = [
            ("general.architecture".to_owned(), Value::from("llama")),
            number("block_count", 1),
            number("context_length", 512),
            number("embedding_length", 64),
            number("feed_forward_length", 128),
            number("attention.head_count", 4),
            number("attention.head_count_kv", 2),
            ("tokenizer.ggml.tokens".to_owned(), Value::from(vec!["a".to_owned(); 100])),
        ];
        let new = |(name, shape): &(String, Vec<u64>)| NewTensor {
            name: name.clone(),
            shape: shape.clone(),
            tensor_type: TensorType::F32,
        };
        let tensors: Vec<NewTensor> = tensors.iter().map(new).collect();
        NewHeader::new(&metadata, &tensors).expect("a header")
    }

    fn facts(header: &[u8], file_bytes: u64) -> Result<ModelFacts, Error> {
        let bytes = Bytes(file_bytes);
        let file = PinnedFile { path: "m.gguf".to_owned(), bytes, sha256: Digest::of(b"m") };
        let source = Pinned { uri: "file:m.gguf".to_owned(), files: vec![file], license: None };
        ModelFacts::from_gguf(source, header)
    }

    fn read(tensors: &[(String, Vec<u64>)]) -> Result<ModelFacts, Error> {
        let header = header(tensors);
        facts(&header.bytes, header.file_bytes)
    }

    #[test]
    fn a_header_whose_tensors_are_what_its_keys_say_is_believed() {
        let facts = read(&tensors()).expect("in order");
        assert_eq!((facts.heads, facts.kv_heads, facts.head_dim, facts.vocab), (4, 2, 16, 100));
    }

    #[test]
    fn each_tensor_that_is_missing_or_of_another_shape_is_named() {
        for at in 0..tensors().len() {
            let (name, shape) = tensors()[at].clone();
            if shape.len() == 1 && name != "output_norm.weight" {
                continue;
            }
            let mut without = tensors();
            without.remove(at);
            assert_eq!(read(&without).err(), Some(Error::Missing { name: name.clone() }));
            let mut other = tensors();
            // the embedding's rows tell the vocabulary
            other[at].1[0] += 32;
            let shape = other[at].1.clone();
            assert_eq!(read(&other).err(), Some(Error::Tensor { name, shape }));
        }
    }

    #[test]
    fn a_tensor_that_is_listed_twice_is_refused() {
        let mut twice = tensors();
        twice.push(twice[3].clone());
        assert_eq!(read(&twice).err(), Some(Error::Twice { name: twice[3].0.clone() }));
    }

    #[test]
    fn tensors_that_lie_beyond_the_file_or_over_each_other_are_refused() {
        let mut last = tensors();
        last.reverse();
        let mut header = header(&last);
        let error = facts(&header.bytes, header.file_bytes - 1).expect_err("one byte is lacking");
        assert!(matches!(error, Error::Short { .. }), "{error}");
        // the embedding is said to lie at the beginning, where others are
        let name = b"token_embd.weight";
        let at = header.bytes.windows(name.len()).position(|bytes| bytes == name).expect("its name");
        let offset = at + name.len() + 4 + 2 * 8 + 4;
        header.bytes[offset..offset + 8].fill(0);
        let error = facts(&header.bytes, header.file_bytes - 64 * 100 * 4).expect_err("one over others");
        assert!(matches!(error, Error::Overlap { .. }), "{error}");
    }
}
