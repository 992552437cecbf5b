//! GGUFs with the shapes of published models, with a header and no data.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use bramble_fleet::gguf::{NewHeader, NewTensor, Value};
use bramble_fleet::quant::mix::{self, MixFacts};
use bramble_fleet::quant::{Quant, TensorType};

/// Widths of a published model: its config.json, as far as memory is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    layers: u32,
    hidden: u32,
    feed_forward: u32,
    heads: u32,
    kv_heads: u32,
    width: u32,
    vocab: u32,
    is_tied: bool,
    /// 0 for none.
    window: u32,
}

const fn of(
    name: &'static str,
    architecture: &'static str,
    [layers, hidden, feed_forward, heads, kv_heads, width, vocab]: [u32; 7],
    is_tied: bool,
) -> Published {
    Published {
        name,
        architecture,
        layers,
        hidden,
        feed_forward,
        heads,
        kv_heads,
        width,
        vocab,
        is_tied,
        window: 0,
    }
}

const fn windowed(window: u32, published: Published) -> Published {
    Published { window, ..published }
}

/// The smallest of each family first.
pub(crate) const ALL: [Published; 41] = [
    of("BLOOM-560M", "bloom", [24, 1024, 4096, 16, 16, 64, 250_880], true),
    of("BLOOM-1.7B", "bloom", [24, 2048, 8192, 16, 16, 128, 250_880], true),
    of("BLOOM-7.1B", "bloom", [30, 4096, 16384, 32, 32, 128, 250_880], true),
    of("Gemma-2B", "gemma", [18, 2048, 16384, 8, 1, 256, 256_000], true),
    of("Gemma-7B", "gemma", [28, 3072, 24576, 16, 16, 256, 256_000], true),
    windowed(4096, of("Gemma-2-2B", "gemma2", [26, 2304, 9216, 8, 4, 256, 256_000], true)),
    windowed(4096, of("Gemma-2-9B", "gemma2", [42, 3584, 14336, 16, 8, 256, 256_000], true)),
    windowed(512, of("Gemma-3-270M", "gemma3", [18, 640, 2048, 4, 1, 256, 262_144], true)),
    windowed(512, of("Gemma-3-1B", "gemma3", [26, 1152, 6912, 4, 1, 256, 262_144], true)),
    windowed(1024, of("Gemma-3-4B", "gemma3", [34, 2560, 10240, 8, 4, 256, 262_208], true)),
    windowed(1024, of("Gemma-3-12B", "gemma3", [48, 3840, 15360, 16, 8, 256, 262_208], true)),
    of("GPT-2-124M", "gpt2", [12, 768, 3072, 12, 12, 64, 50257], true),
    of("GPT-Neo-1.3B", "gpt2", [24, 2048, 8192, 16, 16, 128, 50257], true),
    of("GPT-2-XL", "gpt2", [48, 1600, 6400, 25, 25, 64, 50257], true),
    of("Pythia-410M", "gptneox", [24, 1024, 4096, 16, 16, 64, 50304], false),
    of("Pythia-1.4B", "gptneox", [24, 2048, 8192, 16, 16, 128, 50304], false),
    of("Pythia-12B", "gptneox", [36, 5120, 20480, 40, 40, 128, 50688], false),
    of("SmolLM2-135M", "llama", [30, 576, 1536, 9, 3, 64, 49152], true),
    of("Llama-3.2-1B", "llama", [16, 2048, 8192, 32, 8, 64, 128_256], true),
    of("TinyLlama-1.1B", "llama", [22, 2048, 5632, 32, 4, 64, 32000], false),
    of("Llama-3.2-3B", "llama", [28, 3072, 8192, 24, 8, 128, 128_256], true),
    of("Mistral-7B", "llama", [32, 4096, 14336, 32, 8, 128, 32000], false),
    of("Llama-3.1-8B", "llama", [32, 4096, 14336, 32, 8, 128, 128_256], false),
    of("Llama-2-13B", "llama", [40, 5120, 13824, 40, 40, 128, 32000], false),
    of("Phi-2", "phi2", [32, 2560, 10240, 32, 32, 80, 51200], false),
    of("GPT-J-6B", "phi2", [28, 4096, 16384, 16, 16, 256, 50400], false),
    of("Phi-3-mini", "phi3", [32, 3072, 8192, 32, 32, 96, 32064], false),
    of("Phi-4-mini", "phi3", [32, 3072, 8192, 24, 8, 128, 200_064], true),
    of("Phi-3-medium", "phi3", [40, 5120, 17920, 40, 10, 128, 32064], false),
    of("Qwen2.5-0.5B", "qwen2", [24, 896, 4864, 14, 2, 64, 151_936], true),
    of("Qwen2.5-1.5B", "qwen2", [28, 1536, 8960, 12, 2, 128, 151_936], true),
    of("Qwen2.5-7B", "qwen2", [28, 3584, 18944, 28, 4, 128, 152_064], false),
    of("Qwen3-0.6B", "qwen3", [28, 1024, 3072, 16, 8, 128, 151_936], true),
    of("Qwen3-4B", "qwen3", [36, 2560, 9728, 32, 8, 128, 151_936], true),
    of("Qwen3-8B", "qwen3", [36, 4096, 12288, 32, 8, 128, 151_936], false),
    of("SmolLM3-3B", "smollm3", [36, 2048, 11008, 16, 4, 128, 128_256], true),
    of("FLAN-T5-small", "t5", [8, 512, 1024, 6, 6, 64, 32128], false),
    of("FLAN-T5-base", "t5", [12, 768, 2048, 12, 12, 64, 32128], false),
    of("T5-base", "t5", [12, 768, 3072, 12, 12, 64, 32128], true),
    of("FLAN-T5-large", "t5", [24, 1024, 2816, 16, 16, 64, 32128], false),
    of("FLAN-T5-XL", "t5", [24, 2048, 5120, 32, 32, 64, 32128], false),
];

impl Published {
    /// Returns names and shapes of its tensors.
    fn shapes(&self) -> Vec<(String, Vec<u64>)> {
        let mut list = List { published: *self, shapes: Vec::new() };
        let (d, vocab) = (list.hidden(), u64::from(self.vocab));
        list.add("token_embd.weight", &[d, vocab]);
        match self.architecture {
            "gpt2" => list.add("position_embd.weight", &[d, self.context().into()]),
            "bloom" => list.add_normed("token_embd_norm"),
            _ => {}
        }
        if self.architecture == "t5" {
            for (stack, norm) in [("enc", "enc.output_norm"), ("dec", "dec.output_norm")] {
                list.add_normed(norm);
                (0..self.layers).for_each(|block| list.add_t5_block(stack, block));
            }
        } else {
            list.add_normed("output_norm");
            (0..self.layers).for_each(|block| list.add_block(block));
        }
        if !self.is_tied {
            list.add("output.weight", &[d, vocab]);
        }
        if self.architecture == "phi2" {
            list.add("output.bias", &[vocab]);
        }
        list.shapes
    }

    /// Tokens that it was trained for.
    pub(crate) fn context(&self) -> u32 {
        match self.architecture {
            "t5" => 512,
            "gpt2" => 1024,
            "bloom" | "gptneox" | "phi2" => 2048,
            _ => 131_072,
        }
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let of = |key: &str| format!("{}.{key}", self.architecture);
        let mut keys: Vec<(String, Value)> = vec![
            ("general.architecture".into(), self.architecture.into()),
            (of("block_count"), self.layers.into()),
            (of("context_length"), self.context().into()),
            (of("embedding_length"), self.hidden.into()),
            (of("feed_forward_length"), self.feed_forward.into()),
            (of("attention.head_count"), self.heads.into()),
            (of("attention.head_count_kv"), self.kv_heads.into()),
            (of("attention.layer_norm_epsilon"), 1e-5_f32.into()),
            (of("attention.layer_norm_rms_epsilon"), 1e-5_f32.into()),
        ];
        if self.width * self.heads != self.hidden || self.architecture == "t5" {
            keys.push((of("attention.key_length"), self.width.into()));
            keys.push((of("attention.value_length"), self.width.into()));
        }
        if self.window > 0 {
            keys.push((of("attention.sliding_window"), self.window.into()));
        }
        match self.architecture {
            "gptneox" => keys.push((of("use_parallel_residual"), true.into())),
            "phi2" => keys.push((of("rope.dimension_count"), (self.width / 2).into())),
            "t5" => keys.push((of("attention.relative_buckets_count"), 32_u32.into())),
            _ => {}
        }
        let tokens: Vec<String> = (0..self.vocab).map(|token| format!("t{token}")).collect();
        keys.push(("tokenizer.ggml.model".into(), "gpt2".into()));
        keys.push(("tokenizer.ggml.pre".into(), "gpt-2".into()));
        keys.push(("tokenizer.ggml.token_type".into(), vec![1_i32; tokens.len()].into()));
        keys.push(("tokenizer.ggml.tokens".into(), tokens.into()));
        keys.push(("tokenizer.ggml.merges".into(), vec!["t 1".to_owned()].into()));
        keys
    }

    /// Writes the header of a GGUF with the types of `quant`, and a hole in place of its data.
    /// Returns the header and the length of the file.
    pub(crate) fn write(&self, path: &Path, quant: Quant) -> (Vec<u8>, u64) {
        let shapes = self.shapes();
        let named: Vec<(&str, &[u64])> =
            shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        let facts = MixFacts {
            architecture: self.architecture,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            has_imatrix: false,
        };
        let types: Vec<TensorType> = mix::plan(&named, facts, quant);
        let tensors: Vec<NewTensor> = shapes
            .into_iter()
            .zip(types)
            .map(|((name, shape), tensor_type)| NewTensor { name, shape, tensor_type })
            .collect();
        let header = NewHeader::new(&self.metadata(), &tensors).unwrap();
        let mut file = File::create(path).unwrap();
        file.write_all(&header.bytes).unwrap();
        file.set_len(header.file_bytes).unwrap();
        (header.bytes, header.file_bytes)
    }
}

/// The tensors of a model while they are listed.
struct List {
    published: Published,
    shapes: Vec<(String, Vec<u64>)>,
}

impl List {
    fn hidden(&self) -> u64 {
        self.published.hidden.into()
    }

    fn add(&mut self, name: impl Into<String>, shape: &[u64]) {
        self.shapes.push((name.into(), shape.to_vec()));
    }

    /// A family's norms have a bias or none, and so have its other parts.
    fn has_biases(&self) -> bool {
        matches!(self.published.architecture, "bloom" | "gpt2" | "gptneox" | "phi2")
    }

    fn add_normed(&mut self, name: &str) {
        let d = self.hidden();
        self.add(format!("{name}.weight"), &[d]);
        if self.has_biases() {
            self.add(format!("{name}.bias"), &[d]);
        }
    }

    fn add_linear(&mut self, name: &str, from: u64, to: u64, has_bias: bool) {
        self.add(format!("{name}.weight"), &[from, to]);
        if has_bias {
            self.add(format!("{name}.bias"), &[to]);
        }
    }

    fn add_block(&mut self, block: u32) {
        let Published { architecture, heads, kv_heads, width, feed_forward, .. } = self.published;
        let (d, ff) = (self.hidden(), u64::from(feed_forward));
        let (q, kv) = (u64::from(heads * width), u64::from(kv_heads * width));
        let name = |part: &str| format!("blk.{block}.{part}");
        let has_biases = self.has_biases();
        self.add_normed(&name("attn_norm"));
        if matches!(architecture, "bloom" | "gpt2" | "gptneox" | "phi3") {
            self.add_linear(&name("attn_qkv"), d, q + 2 * kv, has_biases);
        } else {
            let has_bias = architecture == "qwen2" || self.published.name == "Phi-2";
            self.add_linear(&name("attn_q"), d, q, has_bias);
            self.add_linear(&name("attn_k"), d, kv, has_bias);
            self.add_linear(&name("attn_v"), d, kv, has_bias);
        }
        if matches!(architecture, "gemma3" | "qwen3") {
            self.add(name("attn_q_norm.weight"), &[width.into()]);
            self.add(name("attn_k_norm.weight"), &[width.into()]);
        }
        self.add_linear(&name("attn_output"), q, d, has_biases);
        if matches!(architecture, "gemma2" | "gemma3") {
            self.add_normed(&name("post_attention_norm"));
            self.add_normed(&name("post_ffw_norm"));
        }
        if architecture != "phi2" {
            self.add_normed(&name("ffn_norm"));
        }
        if !has_biases && architecture != "phi3" {
            self.add_linear(&name("ffn_gate"), d, ff, false);
        }
        let up = if architecture == "phi3" { 2 * ff } else { ff };
        self.add_linear(&name("ffn_up"), d, up, has_biases);
        self.add_linear(&name("ffn_down"), ff, d, has_biases);
    }

    fn add_t5_block(&mut self, stack: &str, block: u32) {
        let Published { heads, width, feed_forward, .. } = self.published;
        let (d, ff, inner) = (self.hidden(), u64::from(feed_forward), u64::from(heads * width));
        let name = |part: &str| format!("{stack}.blk.{block}.{part}");
        let crosses: &[&str] = if stack == "dec" { &["attn", "cross_attn"] } else { &["attn"] };
        for attention in crosses {
            self.add_normed(&name(&format!("{attention}_norm")));
            for part in ["q", "k", "v"] {
                self.add_linear(&name(&format!("{attention}_{part}")), d, inner, false);
            }
            self.add_linear(&name(&format!("{attention}_o")), inner, d, false);
        }
        if block == 0 {
            self.add(name("attn_rel_b.weight"), &[heads.into(), 32]);
        }
        self.add_normed(&name("ffn_norm"));
        // FLAN's has a gate
        if self.published.name.starts_with("FLAN") {
            self.add_linear(&name("ffn_gate"), d, ff, false);
        }
        self.add_linear(&name("ffn_up"), d, ff, false);
        self.add_linear(&name("ffn_down"), ff, d, false);
    }
}
