//! What clients may ask of an answer, with a real model: `brambled engine` in a process of its own.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use bramble_fleet::generation::{KvType, Layout};
use bramble_fleet::openai::{ChatReply, LogProb, TextReply, TokenList, TokensText};
use daemon::{Engine, model};
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use rewrite::with_key;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/rewrite.rs"]
mod rewrite;
#[path = "support/tools.rs"]
mod tools;

/// Asks and reads the answer, which must be one.
async fn ask<T: DeserializeOwned>(engine: &Engine, path: &str, body: &Value) -> T {
    let (status, bytes) = engine.ask(path, body).await;
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(status, StatusCode::OK, "{body}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn prompt(extra: &Value) -> Value {
    let mut body =
        json!({"model": "smol", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_bias_bans_a_token_or_takes_it_always() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let free: TextReply = ask(&engine, "/v1/completions", &prompt(&json!({}))).await;
    assert!(free.choices[0].text.starts_with(" Paris"), "{free:?}");
    let list: TokenList = ask(&engine, "/tokenize", &json!({"content": " Paris"})).await;
    let TokenList::Numbers { tokens } = list else { panic!("{list:?}") };
    assert_eq!(tokens.len(), 1, "the test needs a word that is one token");
    let banned = prompt(&json!({"logit_bias": {tokens[0].to_string(): -100}}));
    let other: TextReply = ask(&engine, "/v1/completions", &banned).await;
    assert!(!other.choices[0].text.contains(" Paris"), "{other:?}");
    let forced = prompt(&json!({"logit_bias": {tokens[0].to_string(): 100}}));
    let again: TextReply = ask(&engine, "/v1/completions", &forced).await;
    assert_eq!(again.choices[0].text, " Paris".repeat(8));
    engine.stop();
}

#[tokio::test]
async fn likelihoods_are_the_models_own_whatever_is_done_to_them() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let asked = prompt(&json!({"logprobs": 5}));
    let reply: TextReply = ask(&engine, "/v1/completions", &asked).await;
    let told = reply.choices[0].logprobs.clone().unwrap();
    assert_eq!(told.tokens.concat(), reply.choices[0].text);
    assert_eq!((told.tokens.len(), told.top_logprobs.len()), (8, 8));
    for (token, (&logprob, top)) in told.tokens.iter().zip(told.token_logprobs.iter().zip(&told.top_logprobs))
    {
        // greedy: the token that was taken is the likeliest
        let best = top.iter().next().unwrap();
        assert_eq!(best.0, token);
        assert!(logprob <= 0.0 && (best.1.as_f64().unwrap() - f64::from(logprob)).abs() < 1e-6);
    }
    // the same token has the same likelihood under another temperature and a bias that forces it
    let list: TokenList = ask(&engine, "/tokenize", &json!({"content": told.tokens[0]})).await;
    let TokenList::Numbers { tokens } = list else { panic!("{list:?}") };
    let forced = json!({"temperature": 1.5, "logprobs": 0, "max_tokens": 1, "logit_bias": {tokens[0].to_string(): 100}});
    let reply: TextReply = ask(&engine, "/v1/completions", &prompt(&forced)).await;
    let forced = reply.choices[0].logprobs.clone().unwrap();
    assert_eq!((&forced.tokens[0], forced.top_logprobs[0].len()), (&told.tokens[0], 0));
    assert!((forced.token_logprobs[0] - told.token_logprobs[0]).abs() < 1e-3, "{forced:?} {told:?}");
    engine.stop();
}

#[tokio::test]
async fn answers_side_by_side_differ_by_chance_and_can_be_had_again() {
    let Some(engine) = Engine::start(|spec| spec.slots = 2) else { return };
    let body = prompt(&json!({"n": 3, "temperature": 1.5, "seed": 7}));
    let texts = async || {
        let reply: TextReply = ask(&engine, "/v1/completions", &body).await;
        reply.choices.into_iter().map(|choice| choice.text).collect::<Vec<String>>()
    };
    let first = texts().await;
    assert!(first.len() == 3 && first[0] != first[1] && first[1] != first[2], "{first:?}");
    println!("{first:?}");
    engine.stop();
}

#[tokio::test]
async fn an_answer_keeps_to_its_schema_whatever_the_model_would_say() {
    let Some(engine) = Engine::start(|spec| spec.context = 1024) else { return };
    let schema = json!({
        "type": "object", "required": ["name", "capital", "million_people", "languages"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 20}, "capital": {"$ref": "#/$defs/city"},
            "million_people": {"type": "integer", "minimum": 1, "maximum": 2000},
            "languages": {"type": "array", "items": {"enum": ["French", "German", "Italian"]}, "minItems": 1, "maxItems": 3},
        },
        "$defs": {"city": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"], "additionalProperties": false}},
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    for seed in 0..6 {
        let body = json!({
            "model": "smol", "messages": [{"role": "user", "content": "Tell me about France."}], "seed": seed, "temperature": 1.2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "country", "strict": true, "schema": schema}},
        });
        let reply: ChatReply = ask(&engine, "/v1/chat/completions", &body).await;
        let text = reply.choices[0].message.content.clone().unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(validator.is_valid(&value), "{text}");
        println!("{text}");
    }
    let body = json!({
        "model": "smol", "messages": [{"role": "user", "content": "Say hello as JSON."}], "temperature": 0,
        "response_format": {"type": "json_object"}, "max_tokens": 400,
    });
    let reply: ChatReply = ask(&engine, "/v1/chat/completions", &body).await;
    let text = reply.choices[0].message.content.clone().unwrap();
    println!("{text}");
    assert!(text.starts_with('{'), "{text}");
    engine.stop();
}

#[tokio::test]
async fn a_model_whose_template_has_tools_calls_them() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let trained = folder.path().join("tools.gguf");
    with_key(&weights, &trained, "tokenizer.chat_template", tools::TEMPLATE);
    let engine = Engine::start_with(&trained, |spec| spec.context = 1024);
    let city = json!({"type": "string", "enum": ["Bern", "Oslo", "Rome"]});
    let weather = json!({"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": {
        "type": "object", "properties": {"city": city, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"], "additionalProperties": false,
    }}});
    let mut body = json!({
        "model": "smol", "temperature": 0, "max_tokens": 120, "tools": [weather, {"type": "function", "function": {"name": "time"}}],
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": false,
    });
    let reply: ChatReply = ask(&engine, "/v1/chat/completions", &body).await;
    let calls = &reply.choices[0].message.tool_calls;
    println!("{calls:?}");
    let arguments: Value = serde_json::from_str(&calls[0].function.arguments).unwrap();
    assert_eq!((calls.len(), calls[0].function.name.as_str()), (1, "weather"));
    assert!(["Bern", "Oslo", "Rome"].contains(&arguments["city"].as_str().unwrap()));
    assert!((1..=7).contains(&arguments["days"].as_i64().unwrap()));

    // the answer goes back in, as the prompt shows by its length
    let before = reply.usage.prompt_tokens;
    let turn = json!({"role": "assistant", "content": null, "tool_calls": calls});
    let answer =
        json!({"role": "tool", "tool_call_id": calls[0].id, "content": "Snow, and minus four degrees."});
    body["messages"].as_array_mut().unwrap().extend([turn, answer]);
    body["tool_choice"] = json!("auto");
    let reply: ChatReply = ask(&engine, "/v1/chat/completions", &body).await;
    println!("{:?}", reply.choices[0].message);
    assert!(reply.usage.prompt_tokens > before + 20);
    engine.stop();
}

#[tokio::test]
async fn tokens_are_text_again_and_control_tokens_have_names() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let text = "<|im_start|>user\nGrüße, 世界 🌍!<|im_end|>\n";
    let list: TokenList = ask(&engine, "/tokenize", &json!({"content": text})).await;
    let TokenList::Numbers { tokens } = list else { panic!("{list:?}") };
    let back: TokensText = ask(&engine, "/detokenize", &json!({"tokens": tokens})).await;
    assert_eq!(back.content, text);
    let pieces: TokenList = ask(&engine, "/tokenize", &json!({"content": text, "with_pieces": true})).await;
    let TokenList::Pieces { tokens: pieces } = pieces else { panic!("{pieces:?}") };
    assert_eq!((pieces.len(), pieces[0].id), (tokens.len(), tokens[0]));
    // a chat tells the bytes of each token, that of half a character as well
    let body = json!({
        "model": "smol", "messages": [{"role": "user", "content": "Write one emoji."}], "logprobs": true, "top_logprobs": 2,
        "max_tokens": 12, "temperature": 0,
    });
    let reply: ChatReply = ask(&engine, "/v1/chat/completions", &body).await;
    let told = reply.choices[0].logprobs.clone().unwrap().content;
    let bytes: Vec<u8> = told.iter().flat_map(|token| token.taken.bytes.clone().unwrap()).collect();
    assert_eq!(Some(String::from_utf8_lossy(&bytes).into_owned()), reply.choices[0].message.content);
    assert!(
        told.iter().all(|token| matches!(token.top_logprobs.as_slice(), [LogProb { .. }, LogProb { .. }]))
    );
    engine.stop();
}

/// A prompt of about 200 tokens.
fn long() -> String {
    "The three laws of thermodynamics say that energy is neither made nor lost. ".repeat(14) + "They also say"
}

#[tokio::test]
async fn a_kept_prompt_is_not_computed_again_after_a_restart_and_its_answer_is_the_same() {
    let asked =
        |tokens: u32| json!({"model": "smol", "prompt": long(), "temperature": 0, "max_tokens": tokens});
    for kv in [KvType::F16, KvType::Q8_0] {
        let start = Engine::start(|spec| (spec.keep_prompts, spec.kv, spec.slots) = (true, kv, 2));
        let Some(mut engine) = start else { return };
        let first: TextReply = ask(&engine, "/v1/completions", &asked(24)).await;
        let whole = first.timings.as_ref().unwrap().prompt_n;
        assert!(whole > 150, "{first:?}");
        for _ in 0..2 {
            engine = engine.restart();
            let again: TextReply = ask(&engine, "/v1/completions", &asked(24)).await;
            assert_eq!(again.timings.as_ref().unwrap().prompt_n, 1, "{}", engine.log());
            assert_eq!(again.choices[0].text, first.choices[0].text);
            assert_eq!(again.usage, first.usage);
        }
        // one bit of the cache is another
        let folder = Layout::new(engine.root.path()).kept_prompts(&"smol".parse().unwrap());
        engine = engine.restart_after(|| {
            let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            let file = files.find(|path| path.extension().is_some_and(|word| word == "cache")).unwrap();
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&file, bytes).unwrap();
        });
        assert!(engine.log().contains("is not what was written"), "{}", engine.log());
        assert!(!folder.exists());
        let again: TextReply = ask(&engine, "/v1/completions", &asked(24)).await;
        assert_eq!(again.timings.as_ref().unwrap().prompt_n, whole);
        assert_eq!(again.choices[0].text, first.choices[0].text);
        drop(engine);
    }
}

#[tokio::test]
async fn a_beginning_that_a_busy_slot_has_is_shared_with_another() {
    // alone, and computed in full
    let second = json!({"model": "smol", "prompt": long() + " that the capital of France is", "temperature": 0, "max_tokens": 16});
    for kv in [KvType::F16, KvType::Q8_0] {
        let Some(engine) = Engine::start(|spec| spec.kv = kv) else { return };
        let alone: TextReply = ask(&engine, "/v1/completions", &second).await;
        engine.stop();
        let Some(engine) = Engine::start(|spec| (spec.kv, spec.slots) = (kv, 3)) else { return };
        let first = json!({"model": "smol", "prompt": long(), "temperature": 0, "stream": true, "logit_bias": {"0": -100}});
        let mut stream = engine.send(Method::POST, "/v1/completions", &first).await.into_body();
        let begun = stream.frame().await.unwrap().unwrap();
        let shared: TextReply = ask(&engine, "/v1/completions", &second).await;
        let whole = alone.timings.as_ref().unwrap().prompt_n;
        let rest = shared.timings.as_ref().unwrap().prompt_n;
        assert!(whole > 150 && rest < 12, "{rest} of {whole}");
        assert_eq!(shared.choices[0].text, alone.choices[0].text);
        // the other was busy all the while, and is not disturbed
        assert_eq!(engine.health().await["running"], 1);
        drop((begun, stream));
        engine.stop();
    }
}
