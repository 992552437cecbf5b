use serde_json::{Value as Json, json};

use super::*;
use crate::checkpoint::Dtype;
use crate::convert::{Part, gguf_keys};

/// A family's config.json and the tensors of a checkpoint of it.
struct Case {
    config: Json,
    stored: BTreeMap<String, Stored>,
}

impl Case {
    fn new(config: Json, shapes: &[(&str, &[u64])]) -> Self {
        let mut case = Self { config, stored: BTreeMap::new() };
        for (name, shape) in shapes {
            case.put(name, shape);
        }
        case
    }

    fn put(&mut self, name: &str, shape: &[u64]) {
        let bytes = shape.iter().product::<u64>() * 4;
        let stored = Stored { dtype: Dtype::F32, shape: shape.to_vec(), offset: 0, bytes };
        self.stored.insert(name.to_owned(), stored);
    }

    /// Puts a weight and a bias, as long as the weight's first side.
    fn put_both(&mut self, name: &str, shape: &[u64]) {
        self.put(&format!("{name}.weight"), shape);
        self.put(&format!("{name}.bias"), &shape[..1]);
    }

    fn recipes(&self) -> Result<Vec<Recipe>, Error> {
        recipes(&self.config, &self.stored)
    }

    /// Keys, then how each tensor is made, a line each.
    fn shown(&self) -> String {
        let keys =
            gguf_keys(&self.config).unwrap().into_iter().map(|(key, value)| format!("{key} = {value:?}"));
        let part = |part: &Part| match part {
            Part::Stored { name, order, change } if *change == crate::convert::Change::NONE => {
                format!("{name} {order:?}")
            }
            Part::Stored { name, order, change } => format!("{name} {order:?} * {}", change.scale),
            Part::Made(values) => format!("{values:?}"),
            Part::Zeros(len) => format!("{len} zeros"),
        };
        let tensors = self.recipes().unwrap().into_iter().map(|recipe| {
            let parts: Vec<String> = recipe.parts.iter().map(part).collect();
            format!("{} {:?} <- {}", recipe.tensor.name, recipe.tensor.shape, parts.join(" + "))
        });
        keys.chain(tensors).collect::<Vec<_>>().join("\n")
    }

    /// The same checkpoint with a prefix taken off every name.
    fn without(&self, prefix: &str) -> Self {
        let bare = |name: &String| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        let stored = self.stored.iter().map(|(name, stored)| (bare(name), stored.clone())).collect();
        Self { config: self.config.clone(), stored }
    }

    fn with(&self, key: &str, value: Json) -> Self {
        let mut config = self.config.clone();
        config[key] = value;
        Self { config, stored: self.stored.clone() }
    }

    /// Why the configuration alone is refused.
    #[track_caller]
    fn refused(&self) -> String {
        check(&self.config).err().expect("to be refused").to_string()
    }

    /// Holds that `name` is dropped, and that a name without a meaning is not.
    #[track_caller]
    fn drops(&self, name: &str) {
        let mut case = Self { config: self.config.clone(), stored: self.stored.clone() };
        case.put(name, &[1, 1, 16, 16]);
        assert_eq!(case.recipes().unwrap(), self.recipes().unwrap(), "{name}");
        let beyond = format!("{name}_of_no_use");
        case.put(&beyond, &[1]);
        let error = case.recipes().unwrap_err().to_string();
        assert!(error.contains(&beyond), "{error}");
    }
}

fn gpt2() -> Case {
    let mut case = Case::new(
        json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8, "n_head": 2,
            "n_layer": 1, "n_positions": 16, "vocab_size": 10, "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new", "n_inner": null}),
        &[("transformer.wte.weight", &[10, 8]), ("transformer.wpe.weight", &[16, 8])],
    );
    for (name, shape) in [("ln_1", &[8][..]), ("ln_2", &[8])] {
        case.put_both(&format!("transformer.h.0.{name}"), shape);
    }
    case.put_both("transformer.ln_f", &[8]);
    // stored with inputs as rows: the bias is as long as a row
    for (name, [inputs, outputs]) in
        [("attn.c_attn", [8, 24]), ("attn.c_proj", [8, 8]), ("mlp.c_fc", [8, 32]), ("mlp.c_proj", [32, 8])]
    {
        case.put(&format!("transformer.h.0.{name}.weight"), &[inputs, outputs]);
        case.put(&format!("transformer.h.0.{name}.bias"), &[outputs]);
    }
    case
}

#[test]
fn gpt_2_is_transposed() {
    let case = gpt2();
    insta::assert_snapshot!(case.shown());
    let bare = case.without("transformer.");
    assert_eq!(bare.shown(), case.shown().replace("transformer.", ""));
    case.drops("transformer.h.0.attn.bias");
    case.drops("transformer.h.0.attn.masked_bias");
    case.drops("lm_head.weight");
    let untied = case.with("tie_word_embeddings", json!(false));
    assert!(matches!(untied.recipes(), Err(Error::MissingTensor(name)) if name == "lm_head.weight"));
}

#[test]
fn gpt_2_with_another_attention_is_refused() {
    let case = gpt2();
    for (key, value) in [
        ("scale_attn_weights", json!(false)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("add_cross_attention", json!(true)),
        ("activation_function", json!("relu")),
        ("n_head", json!(3)),
        ("n_layer", json!(2000)),
    ] {
        let error = case.with(key, value).refused();
        assert!(error.contains("gpt2") || error.contains("n_"), "{error}");
    }
}

fn gptj(rotary: u32) -> Case {
    let mut case = Case::new(
        json!({"architectures": ["GPTJForCausalLM"], "n_embd": 12, "n_head": 2, "n_layer": 1, "n_positions": 16,
            "vocab_size": 10, "rotary_dim": rotary, "tie_word_embeddings": false}),
        &[("transformer.wte.weight", &[10, 12])],
    );
    for name in ["q", "k", "v", "out"] {
        case.put(&format!("transformer.h.0.attn.{name}_proj.weight"), &[12, 12]);
    }
    case.put_both("transformer.h.0.ln_1", &[12]);
    case.put_both("transformer.ln_f", &[12]);
    case.put_both("transformer.h.0.mlp.fc_in", &[48, 12]);
    case.put_both("transformer.h.0.mlp.fc_out", &[12, 48]);
    case.put_both("lm_head", &[10, 12]);
    case
}

#[test]
fn gpt_j_becomes_a_phi_2() {
    let case = gptj(4);
    insta::assert_snapshot!(case.shown());
    assert_eq!(case.without("transformer.").shown(), case.shown().replace("transformer.", ""));
    case.drops("transformer.h.0.attn.bias");
    case.drops("transformer.h.0.attn.masked_bias");
    assert!(gptj(3).refused().contains("rotary_dim is 3"));
    assert!(gptj(8).refused().contains("heads of 6"));
}

fn gptneo() -> Case {
    let mut case = Case::new(
        json!({"architectures": ["GPTNeoForCausalLM"], "hidden_size": 8, "num_heads": 2, "num_layers": 2,
            "max_position_embeddings": 2048, "window_size": 256, "vocab_size": 10, "intermediate_size": null,
            "attention_types": [[["global", "local"], 1]], "activation_function": "gelu_new"}),
        &[("transformer.wte.weight", &[10, 8]), ("transformer.wpe.weight", &[2048, 8])],
    );
    case.put_both("transformer.ln_f", &[8]);
    for layer in 0..2 {
        let name = |name: &str| format!("transformer.h.{layer}.{name}");
        for part in ["q", "k", "v"] {
            case.put(&name(&format!("attn.attention.{part}_proj.weight")), &[8, 8]);
        }
        case.put_both(&name("attn.attention.out_proj"), &[8, 8]);
        case.put_both(&name("ln_1"), &[8]);
        case.put_both(&name("ln_2"), &[8]);
        case.put_both(&name("mlp.c_fc"), &[32, 8]);
        case.put_both(&name("mlp.c_proj"), &[8, 32]);
    }
    case
}

#[test]
fn gpt_neo_becomes_a_gpt_2_with_its_window_noted() {
    let case = gptneo();
    insta::assert_snapshot!(case.shown());
    case.drops("transformer.h.0.attn.attention.bias");
    case.drops("transformer.h.1.attn.attention.masked_bias");
    case.drops("lm_head.weight");
    let everywhere = case.with("attention_types", json!([[["global"], 2]])).shown();
    assert!(!everywhere.contains("window"), "{everywhere}");
}

#[test]
fn gpt_neo_with_odd_kinds_of_attention_is_refused() {
    let case = gptneo();
    for kinds in [
        json!(null),
        json!([[["global", "local"], 2]]),
        json!([[["global", "sparse"], 1]]),
        json!([[["global", "local"], 4_000_000_000_u32]]),
        json!([["global", 1]]),
        json!([[["local"], 1000], [["local"], 1000]]),
        json!([[[], 1], [["global", "local"], 1]]),
    ] {
        let error = case.with("attention_types", kinds).refused();
        assert!(error.contains("attention_types"), "{error}");
    }
}

fn by_part(config: Json, top: &str, layer: &str, attention: &str) -> Case {
    let mut case = Case::new(config, &[]);
    for (name, shape) in [
        ("input_layernorm", &[12][..]),
        ("post_attention_layernorm", &[12]),
        (&format!("{attention}.query_key_value"), &[36, 12]),
        (&format!("{attention}.dense"), &[12, 12]),
        ("mlp.dense_h_to_4h", &[48, 12]),
        ("mlp.dense_4h_to_h", &[12, 48]),
    ] {
        case.put_both(&format!("{top}{layer}.0.{name}"), shape);
    }
    case
}

fn gptneox() -> Case {
    let config = json!({"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 12, "num_attention_heads": 3,
        "num_hidden_layers": 1, "intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": 10,
        "rotary_pct": 0.5, "rotary_emb_base": 5000, "layer_norm_eps": 1e-6, "use_parallel_residual": false,
        "tie_word_embeddings": false, "hidden_act": "gelu"});
    let mut case = by_part(config, "gpt_neox.", "layers", "attention");
    case.put("gpt_neox.embed_in.weight", &[10, 12]);
    case.put("embed_out.weight", &[10, 12]);
    case.put_both("gpt_neox.final_layer_norm", &[12]);
    case
}

#[test]
fn gpt_neox_is_fused_head_by_head() {
    let case = gptneox();
    insta::assert_snapshot!(case.shown());
    assert_eq!(case.without("gpt_neox.").shown(), case.shown().replace("gpt_neox.", ""));
    case.drops("gpt_neox.layers.0.attention.bias");
    case.drops("gpt_neox.layers.0.attention.masked_bias");
    case.drops("gpt_neox.layers.0.attention.rotary_emb.inv_freq");
    let newer = json!({"rope_theta": 7.0, "partial_rotary_factor": 1.0, "rope_type": "default"});
    let newer = case.with("rope_parameters", newer).shown();
    assert!(
        newer.contains("rope.dimension_count = U32(4)") && newer.contains("freq_base = F32(7.0)"),
        "{newer}"
    );
    let scaled = case.with("rope_scaling", json!({"type": "linear", "factor": 2.0})).refused();
    assert!(scaled.contains("linear"), "{scaled}");
    assert!(case.with("rotary_pct", json!(0.0)).refused().contains("rotary_pct is 0"));
    let tied = case.with("tie_word_embeddings", json!(true)).shown();
    assert!(tied.contains("output.weight [12, 10] <- gpt_neox.embed_in.weight"), "{tied}");
}

fn bloom() -> Case {
    let config = json!({"architectures": ["BloomForCausalLM"], "n_embed": 12, "num_attention_heads": 3,
        "n_layer": 1, "vocab_size": 10, "layer_norm_epsilon": 1e-5});
    let mut case = by_part(config, "transformer.", "h", "self_attention");
    case.put("transformer.word_embeddings.weight", &[10, 12]);
    case.put_both("transformer.word_embeddings_layernorm", &[12]);
    case.put_both("transformer.ln_f", &[12]);
    case
}

#[test]
fn bloom_has_a_norm_after_its_embedding() {
    let case = bloom();
    insta::assert_snapshot!(case.shown());
    assert_eq!(case.without("transformer.").shown(), case.shown().replace("transformer.", ""));
    assert_eq!(case.with("hidden_size", json!(12)).shown(), case.shown());
    assert!(case.with("seq_length", json!(512)).shown().contains("context_length = U32(512)"));
    case.drops("lm_head.weight");
    let error = case.with("apply_residual_connection_post_layernorm", json!(true)).refused();
    assert!(error.contains("residual"), "{error}");
}

fn t5() -> Case {
    let config = json!({"architectures": ["T5ForConditionalGeneration"], "d_model": 16, "d_kv": 4, "d_ff": 24,
        "num_heads": 3, "num_layers": 2, "num_decoder_layers": 1, "vocab_size": 10, "n_positions": 512,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu", "decoder_start_token_id": 0, "tie_word_embeddings": true});
    let mut case = Case::new(config, &[("shared.weight", &[10, 16])]);
    for (side, layers) in [("encoder", 2), ("decoder", 1)] {
        case.put(&format!("{side}.final_layer_norm.weight"), &[16]);
        case.put(&format!("{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"), &[8, 3]);
        for layer in 0..layers {
            let name = |part: u32, name: &str| format!("{side}.block.{layer}.layer.{part}.{name}.weight");
            let attentions = if side == "decoder" {
                &["SelfAttention", "EncDecAttention"][..]
            } else {
                &["SelfAttention"]
            };
            let mut last = 0;
            for (part, attention) in (0..).zip(attentions) {
                for letter in ["q", "k", "v"] {
                    case.put(&name(part, &format!("{attention}.{letter}")), &[12, 16]);
                }
                case.put(&name(part, &format!("{attention}.o")), &[16, 12]);
                case.put(&name(part, "layer_norm"), &[16]);
                last = part + 1;
            }
            case.put(&name(last, "layer_norm"), &[16]);
            case.put(&name(last, "DenseReluDense.wi"), &[24, 16]);
            case.put(&name(last, "DenseReluDense.wo"), &[16, 24]);
        }
    }
    case
}

#[test]
fn t5_has_an_encoder_and_a_decoder() {
    let case = t5();
    insta::assert_snapshot!(case.shown());
    case.drops("encoder.embed_tokens.weight");
    case.drops("decoder.embed_tokens.weight");
    case.drops("lm_head.weight");
    case.drops("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight");
    // one of the copies is enough
    let mut other = t5();
    let table = other.stored.remove("shared.weight").unwrap();
    other.stored.insert("decoder.embed_tokens.weight".to_owned(), table);
    assert_eq!(other.shown(), case.shown().replace("shared.weight", "decoder.embed_tokens.weight"));
}

#[test]
fn flan_t5_is_gated_and_has_a_head_of_its_own() {
    let mut case =
        t5().with("feed_forward_proj", json!("gated-gelu")).with("tie_word_embeddings", json!(false));
    let plain: Vec<String> = case.stored.keys().filter(|name| name.contains(".wi.")).cloned().collect();
    for name in plain {
        let shape = case.stored.remove(&name).unwrap().shape;
        case.put(&name.replace(".wi.", ".wi_0."), &shape);
        case.put(&name.replace(".wi.", ".wi_1."), &shape);
    }
    case.put("lm_head.weight", &[10, 16]);
    let shown = case.shown();
    for line in [
        "output.weight [16, 10] <- lm_head.weight Same",
        "enc.blk.1.ffn_gate.weight [16, 24] <- encoder.block.1.layer.1.DenseReluDense.wi_0.weight Same",
        "dec.blk.0.ffn_up.weight [16, 24] <- decoder.block.0.layer.2.DenseReluDense.wi_1.weight Same",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}");
    }
}

#[test]
fn t5_that_the_graph_does_not_compute_is_refused() {
    for (key, value, expected) in [
        ("num_decoder_layers", json!(3), "3 layers, more than the 2"),
        ("feed_forward_proj", json!("gated-silu"), "gated-silu"),
        ("relative_attention_max_distance", json!(256), "up to 256"),
        ("d_kv", json!(1 << 20), "heads of"),
        ("num_layers", json!(5000), "num_layers"),
    ] {
        let error = t5().with(key, value).refused();
        assert!(error.contains(expected), "{error}");
    }
    let beyond = gguf_keys(&t5().with("decoder_start_token_id", json!(10)).config).unwrap_err().to_string();
    assert!(beyond.contains("decoder_start_token_id"), "{beyond}");
}

#[test]
fn an_unknown_family_is_told_the_nearest() {
    let refused = |class: &str| check(&json!({"architectures": [class]})).err().unwrap().to_string();
    for (class, near) in [
        ("MixtralForCausalLM", "MistralForCausalLM"),
        ("MT5ForConditionalGeneration", "T5ForConditionalGeneration"),
        ("Llama4ForCausalLM", "LlamaForCausalLM"),
        ("GPTNeoXJapaneseForCausalLM", "GPTNeoXForCausalLM"),
    ] {
        let error = refused(class);
        assert!(error.contains(&format!("; the nearest is {near}.")), "{error}");
        assert!(error.contains("supported are BloomForCausalLM, "), "{error}");
    }
    for class in ["FalconForCausalLM", "RwkvForCausalLM", "ForCausalLM", ""] {
        let error = refused(class);
        assert!(!error.contains("nearest"), "{error}");
    }
}
