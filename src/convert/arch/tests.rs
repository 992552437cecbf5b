use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::*;
use crate::checkpoint::Dtype;
use crate::convert::{Change, Order, Part};
use crate::gguf::Value;

/// Two blocks, two heads of four of which keys and values share one, in any class.
fn sizes(class: &str, more: &Json) -> Json {
    let mut config = json!({
        "architectures": [class], "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 10,
        "max_position_embeddings": 64,
    });
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    config
}

fn qwen2() -> Json {
    sizes("Qwen2ForCausalLM", &json!({"tie_word_embeddings": true, "hidden_act": "silu"}))
}

fn qwen3() -> Json {
    sizes("Qwen3ForCausalLM", &json!({"tie_word_embeddings": true, "attention_bias": false}))
}

fn gemma2() -> Json {
    sizes("Gemma2ForCausalLM", &json!({"query_pre_attn_scalar": 4, "sliding_window": 16}))
}

fn gemma3() -> Json {
    sizes(
        "Gemma3ForCausalLM",
        &json!({"query_pre_attn_scalar": 4, "sliding_window": 16, "num_hidden_layers": 6}),
    )
}

fn phi3() -> Json {
    sizes("Phi3ForCausalLM", &json!({"original_max_position_embeddings": 64}))
}

fn smollm3() -> Json {
    sizes("SmolLM3ForCausalLM", &json!({"num_hidden_layers": 4}))
}

fn keys(config: &Json) -> BTreeMap<String, Value> {
    gguf_keys(config).unwrap().into_iter().collect()
}

fn refused(mut config: Json, key: &str, value: Json) -> String {
    assert!(check(&config).is_ok(), "{config}");
    config[key] = value;
    check(&config).err().map(|error| error.to_string()).unwrap_or_default()
}

/// Names and shapes that a checkpoint has, as it would be stored.
fn stored(shapes: &[(&str, &[u64])]) -> BTreeMap<String, Stored> {
    let each = |(name, shape): &(&str, &[u64])| {
        let bytes = shape.iter().product::<u64>() * 4;
        ((*name).to_owned(), Stored { dtype: Dtype::F32, shape: shape.to_vec(), offset: 0, bytes })
    };
    shapes.iter().map(each).collect()
}

/// A block of Llama's names under `start`, with what else it has.
fn block(start: &str, more: &[(&str, &[u64])]) -> BTreeMap<String, Stored> {
    let usual: [(&str, &[u64]); 9] = [
        ("self_attn.q_proj.weight", &[8, 8]),
        ("self_attn.k_proj.weight", &[4, 8]),
        ("self_attn.v_proj.weight", &[4, 8]),
        ("self_attn.o_proj.weight", &[8, 8]),
        ("mlp.gate_proj.weight", &[12, 8]),
        ("mlp.up_proj.weight", &[12, 8]),
        ("mlp.down_proj.weight", &[8, 12]),
        ("input_layernorm.weight", &[8]),
        ("post_attention_layernorm.weight", &[8]),
    ];
    let all = stored(&usual).into_iter().chain(stored(more));
    all.map(|(name, stored)| (format!("{start}.{name}"), stored)).collect()
}

/// A checkpoint of blocks with `more` in each, whose names start with `model`.
fn model(model: &str, layers: u32, more: &[(&str, &[u64])]) -> BTreeMap<String, Stored> {
    let mut all: BTreeMap<String, Stored> =
        (0..layers).flat_map(|layer| block(&format!("{model}.layers.{layer}"), more)).collect();
    let ends: [(&str, &[u64]); 2] = [("embed_tokens.weight", &[10, 8]), ("norm.weight", &[8])];
    all.extend(stored(&ends).into_iter().map(|(name, stored)| (format!("{model}.{name}"), stored)));
    all
}

const GEMMA2: [(&str, &[u64]); 2] =
    [("pre_feedforward_layernorm.weight", &[8]), ("post_feedforward_layernorm.weight", &[8])];
const GEMMA3: [(&str, &[u64]); 4] = [
    ("pre_feedforward_layernorm.weight", &[8]),
    ("post_feedforward_layernorm.weight", &[8]),
    ("self_attn.q_norm.weight", &[4]),
    ("self_attn.k_norm.weight", &[4]),
];

/// Returns the names of a block's tensors, each with what it is made of.
fn first_block(config: &Json, stored: &BTreeMap<String, Stored>) -> BTreeMap<String, Part> {
    let recipes = recipes(config, stored).unwrap();
    let own = recipes.into_iter().filter_map(|recipe| {
        let name = recipe.tensor.name.strip_prefix("blk.0.")?.to_owned();
        Some((name, recipe.parts.into_iter().next().unwrap()))
    });
    own.collect()
}

fn change(part: &Part) -> Change {
    let Part::Stored { change, .. } = part else { panic!("{part:?}") };
    *change
}

#[test]
fn qwen2_wants_its_biases_and_keeps_the_order_of_rows() {
    let biases: [(&str, &[u64]); 3] =
        [("self_attn.q_proj.bias", &[8]), ("self_attn.k_proj.bias", &[4]), ("self_attn.v_proj.bias", &[4])];
    let parts = first_block(&qwen2(), &model("model", 2, &biases));
    assert!(["attn_q.bias", "attn_k.bias", "attn_v.bias"].iter().all(|name| parts.contains_key(*name)));
    let same = |part: &Part| matches!(part, Part::Stored { order: Order::Same, .. });
    assert!(parts.values().all(same), "{parts:?}");
    let error = recipes(&qwen2(), &model("model", 2, &biases[1..])).unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor(name) if name.ends_with("0.self_attn.q_proj.bias")),
        "{error}"
    );
}

#[test]
fn a_bias_that_a_graph_does_not_add_is_refused() {
    let output: [(&str, &[u64]); 1] = [("self_attn.o_proj.bias", &[8])];
    let norms: [(&str, &[u64]); 3] =
        [("self_attn.q_norm.weight", &[4]), ("self_attn.k_norm.weight", &[4]), output[0]];
    for (config, layers, more) in [(qwen3(), 2, norms.as_slice()), (smollm3(), 4, output.as_slice())] {
        let error = recipes(&config, &model("model", layers, more)).unwrap_err().to_string();
        assert!(error.contains("o_proj.bias"), "{error}");
        assert!(refused(config, "attention_bias", json!(true)).contains("biases"));
    }
    assert!(refused(smollm3(), "mlp_bias", json!(true)).contains("feed-forward part has biases"));
    assert!(refused(phi3(), "attention_bias", json!(true)).contains("attention_bias"));
    // Llama's adds them all; what is promised must be there
    let mut llama = sizes("LlamaForCausalLM", &json!({"tie_word_embeddings": true}));
    assert!(recipes(&llama, &model("model", 2, &output)).is_ok());
    llama["attention_bias"] = json!(true);
    assert!(matches!(recipes(&llama, &model("model", 2, &output)), Err(Error::MissingTensor(_))));
}

#[test]
fn gemma_multiplies_by_one_more_than_what_is_stored() {
    for (config, layers, more) in [(gemma2(), 2, GEMMA2.as_slice()), (gemma3(), 6, GEMMA3.as_slice())] {
        let stored = model("model", layers, more);
        for (name, part) in first_block(&config, &stored) {
            let expected =
                if name.contains("norm") { Change { scale: 1.0, offset: 1.0 } } else { Change::NONE };
            assert_eq!(change(&part), expected, "{name}");
        }
        let all = recipes(&config, &stored).unwrap();
        let last = all.iter().find(|recipe| recipe.tensor.name == "output_norm.weight").unwrap();
        assert!((change(&last.parts[0]).offset - 1.0).abs() < f32::EPSILON);
    }
}

#[test]
fn the_text_part_of_a_model_that_sees_is_taken_and_the_rest_left() {
    let text = gemma3();
    let mut nested = json!({"architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": 1});
    nested["text_config"] = text.clone();
    nested["vision_config"] = json!({"hidden_size": 1152, "num_hidden_layers": 27});
    assert_eq!(keys(&nested), keys(&text));
    for start in ["language_model.model", "model.language_model"] {
        let mut all = model(start, 6, &GEMMA3);
        all.extend(stored(&[("vision_tower.vision_model.head.weight", &[3, 3])]));
        all.extend(stored(&[("multi_modal_projector.mm_soft_emb_norm.weight", &[3])]));
        assert_eq!(
            gguf_tensors(&nested, &all).unwrap(),
            gguf_tensors(&text, &model("model", 6, &GEMMA3)).unwrap()
        );
    }
    let odd = model("model", 6, &GEMMA3).into_iter().chain(stored(&[("audio_tower.weight", &[3])])).collect();
    assert!(gguf_tensors(&nested, &odd).unwrap_err().to_string().contains("audio_tower"));
}

#[test]
fn what_the_4b_leaves_out_of_its_configuration_is_known() {
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    });
    let keys = keys(&config);
    let number = |key: &str| keys[&format!("gemma3.{key}")].as_u64().unwrap();
    assert_eq!((number("attention.head_count"), number("attention.head_count_kv")), (8, 4));
    assert_eq!((number("attention.key_length"), number("context_length")), (256, 131_072));
    assert_eq!(number("attention.sliding_window"), 1024);
    assert_eq!(keys["gemma3.rope.freq_base"], Value::F32(1e6));
    assert_eq!(keys["gemma3.rope.scaling.factor"], Value::F32(8.0));
    assert_eq!(plain(&config).unwrap()["vocab_size"], json!(262_208));
}

#[test]
fn both_ways_to_write_gemma_3_positions_give_the_same_keys() {
    let mut old = gemma3();
    old["rope_theta"] = json!(1e6);
    old["rope_local_base_freq"] = json!(5e3);
    old["rope_scaling"] = json!({"rope_type": "linear", "factor": 8.0});
    let mut new = gemma3();
    new["rope_parameters"] = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    });
    assert_eq!(keys(&old), keys(&new));
    assert_eq!(keys(&old)["gemma3.rope.freq_base_swa"], Value::F32(5e3));
}

#[test]
fn what_no_key_tells_the_graph_of_gemma_is_refused() {
    for config in [gemma2(), gemma3()] {
        assert!(
            refused(config.clone(), "query_pre_attn_scalar", json!(5))
                .contains("is 5, llama.cpp's graph has 4")
        );
        assert!(refused(config.clone(), "hidden_activation", json!("gelu")).contains("activation is gelu"));
        assert!(
            refused(config.clone(), "use_bidirectional_attention", json!(true)).contains("looks forward")
        );
        assert!(
            refused(config.clone(), "layer_types", json!(["full_attention"]))
                .contains("full attention in every")
        );
        assert!(refused(config, "sliding_window", json!(null)).contains("sliding_window"));
    }
    assert!(refused(gemma2(), "attn_logit_softcapping", json!(null)).contains("attn_logit_softcapping"));
    assert!(refused(gemma2(), "tie_word_embeddings", json!(false)).contains("head"));
    assert!(refused(gemma3(), "attn_logit_softcapping", json!(50.0)).contains("capped"));
    assert!(refused(gemma3(), "sliding_window_pattern", json!(4)).contains("full attention in every"));
    let types = ["sliding_attention", "full_attention"];
    let mut config = gemma2();
    config["layer_types"] = json!(types);
    assert!(check(&config).is_ok());
}

#[test]
fn phi_turns_a_part_of_each_head_and_has_two_sets_of_factors() {
    // Phi-4-mini in small: three quarters of heads of 8 turn
    let mut config = phi3();
    config["hidden_size"] = json!(16);
    config["head_dim"] = json!(null);
    config["partial_rotary_factor"] = json!(0.75);
    config["max_position_embeddings"] = json!(1024);
    config["rope_scaling"] =
        json!({"type": "longrope", "short_factor": [1.0, 1.0, 1.5], "long_factor": [1.0, 4.0, 9.0]});
    let keys = keys(&config);
    assert_eq!(keys["phi3.rope.dimension_count"], Value::U32(6));
    // exact while the short factors hold, however long the model was trained to look back
    assert_eq!((exact_context(&config).unwrap(), &keys["phi3.context_length"]), (Some(64), &Value::U32(64)));
    // by hand: sqrt(1 + ln 16 / ln 64)
    let Value::F32(factor) = keys["phi3.rope.scaling.attn_factor"] else { panic!() };
    assert!((factor - 1.290_994_4).abs() < 1e-6, "{factor}");
    let all: [(&str, &[u64]); 9] = [
        ("model.embed_tokens.weight", &[10, 16]),
        ("model.norm.weight", &[16]),
        ("lm_head.weight", &[10, 16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.post_attention_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.qkv_proj.weight", &[32, 16]),
        ("model.layers.0.self_attn.o_proj.weight", &[16, 16]),
        ("model.layers.0.mlp.gate_up_proj.weight", &[24, 16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 12]),
    ];
    config["num_hidden_layers"] = json!(1);
    let tensors = gguf_tensors(&config, &stored(&all)).unwrap();
    let shape =
        |name: &str| tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.clone());
    assert_eq!(shape("blk.0.attn_qkv.weight"), Some(vec![16, 32]));
    assert_eq!(shape("blk.0.ffn_up.weight"), Some(vec![16, 24]));
    assert_eq!(shape("rope_factors_long.weight"), Some(vec![3]));
    assert_eq!(shape("rope_factors_short.weight"), Some(vec![3]));
    assert!(
        refused(config, "rope_scaling", json!({"type": "su", "short_factor": [1.0], "long_factor": [1.0]}))
            .contains("1 short and 1 long factors, where 3")
    );
}

#[test]
fn smollm3_leaves_positions_out_where_the_graph_does() {
    let mut config = smollm3();
    config["no_rope_layers"] = json!([1, 1, 1, 0]);
    assert!(check(&config).is_ok());
    assert!(refused(config.clone(), "no_rope_layers", json!([1, 1, 0, 1])).contains("number 4 divides"));
    assert!(refused(config, "no_rope_layers", json!([1])).contains("number 4 divides"));
    assert!(refused(smollm3(), "no_rope_layer_interval", json!(3)).contains("number 4 divides"));
    let parts = first_block(&smollm3(), &model("model", 4, &[]));
    let interleaved =
        |name: &str| matches!(parts[name], Part::Stored { order: Order::Interleaved { .. }, .. });
    assert!(interleaved("attn_q.weight") && interleaved("attn_k.weight") && !interleaved("attn_v.weight"));
}

#[test]
fn a_window_that_nobody_puts_in_caps_the_context_and_another_is_told() {
    let exact = |config: &Json, key: &str, value: Json| {
        let mut config = config.clone();
        config[key] = value;
        exact_context(&config).unwrap()
    };
    let told = |config: &Json, key: &str, value: Json| {
        let mut config = config.clone();
        config[key] = value;
        assert_eq!(exact_context(&config).unwrap(), None);
        let keys = gguf_keys(&config).unwrap();
        let window = keys.into_iter().find(|(key, _)| key.ends_with(".attention.sliding_window"));
        window.and_then(|(_, window)| window.as_u64())
    };
    let mistral = sizes("MistralForCausalLM", &json!({"tie_word_embeddings": true}));
    assert_eq!(told(&mistral, "sliding_window", json!(16)), Some(16));
    assert_eq!(told(&mistral, "sliding_window", json!(null)), None);
    let long = told(&mistral, "max_position_embeddings", json!(32768));
    assert_eq!(long, Some(4096), "what transformers takes");
    assert_eq!(told(&phi3(), "sliding_window", json!(16)), Some(16));
    assert_eq!(told(&phi3(), "sliding_window", json!(null)), Some(0), "llama.cpp wants the key");
    for mut config in [qwen2(), qwen3(), smollm3()] {
        config["sliding_window"] = json!(16);
        assert_eq!(exact(&config, "use_sliding_window", json!(false)), None);
        assert_eq!(exact(&config, "use_sliding_window", json!(true)), Some(16));
    }
    for config in [gemma2(), gemma3()] {
        assert_eq!(exact_context(&config).unwrap(), None);
    }
}

#[test]
fn positions_that_a_graph_does_not_scale_so_are_refused() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let long = json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]});
    let scaled = |config: &Json, scaling: &Json| {
        let mut config = config.clone();
        config["rope_scaling"] = scaling.clone();
        check(&config).is_ok()
    };
    let llama = sizes("LlamaForCausalLM", &json!({}));
    let accepted = |config: &Json| [&llama3, &yarn, &linear, &long].map(|scaling| scaled(config, scaling));
    assert_eq!(accepted(&llama), [true, false, true, false]);
    assert_eq!(accepted(&qwen2()), [false, false, true, false]);
    assert_eq!(accepted(&qwen3()), [false, false, true, false]);
    assert_eq!(accepted(&smollm3()), [false, false, true, false]);
    assert_eq!(accepted(&gemma2()), [false; 4]);
    assert_eq!(accepted(&gemma3()), [false, false, true, false]);
    assert_eq!(accepted(&phi3()), [false, false, false, true]);
}
