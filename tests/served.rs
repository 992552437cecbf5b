//! Models that llama.cpp's server refuses or gets wrong, served by `brambled engine`: T5, which reads with an encoder, and
//! GPT-Neo beyond its window. Tiny ones with random weights, converted here.
//!
//! Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bramble_fleet::generation::EngineSpec;
use bramble_fleet::openai::{TextReply, TokensText};
use bramble_fleet::quant::Quant;
use bramble_fleet::weights::{self, Control, Order};
use daemon::Engine;
use hyper::StatusCode;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use serde_json::{Value, json};
use tiny::{Family, Stored};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/logits.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod logits;
#[path = "support/tiny.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod tiny;

const CONTEXT: u32 = 320;

fn convert(name: &str, dir: &Path) -> PathBuf {
    let family = Family::all().into_iter().find(|family| family.name == name).unwrap();
    family.write(dir, Stored::F32);
    let out = dir.join("w.gguf");
    weights::run(&Order::single(dir, Quant::F32, &out), &Control::none()).unwrap();
    out
}

fn cases(name: &str) -> Vec<logits::Case> {
    let path = tiny::reference().join("golden/families").join(format!("{name}.safetensors"));
    logits::Case::read(&std::fs::read(path).unwrap())
}

fn start(weights: &Path, architecture: &str, change: impl FnOnce(&mut EngineSpec)) -> Engine {
    Engine::start_with(weights, |spec| {
        architecture.clone_into(&mut spec.weights.architecture);
        spec.context = CONTEXT;
        change(spec);
    })
}

async fn complete(engine: &Engine, body: Value) -> TextReply {
    let mut all = json!({"model": "smol", "temperature": 0});
    all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let (status, bytes) = engine.ask("/v1/completions", &all).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).unwrap()
}

async fn text_of(engine: &Engine, tokens: &[i32]) -> String {
    let (status, bytes) = engine.ask("/detokenize", &json!({"tokens": tokens})).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice::<TokensText>(&bytes).unwrap().content
}

/// Writes answers as a plain loop over `llama_encode` and `llama_decode` does.
struct Plain {
    model: LlamaModel,
}

impl Plain {
    fn load(weights: &Path) -> Self {
        let params = LlamaModelParams::default();
        Self { model: LlamaModel::load_from_file(logits::backend(), weights, &params).unwrap() }
    }

    fn texts(&self, tokens: &[i32]) -> Vec<String> {
        let piece = |token: &i32| self.model.vocab().token_to_piece(LlamaToken::new(*token), true, None);
        tokens.iter().map(|token| String::from_utf8_lossy(&piece(token)).into_owned()).collect()
    }

    /// Tells whether a token is no text: a random model says little else.
    fn is_control(&self, token: usize) -> bool {
        self.texts(&[i32::try_from(token).unwrap()])[0].starts_with('<')
    }

    /// Bans those, as a request has it.
    fn bans(&self) -> Value {
        let tokens = usize::try_from(self.model.vocab().n_tokens()).unwrap();
        let bans =
            (0..tokens).filter(|token| self.is_control(*token)).map(|token| (token.to_string(), json!(-100)));
        Value::Object(bans.collect())
    }

    /// Returns the likeliest `tokens` of an answer that has `begun`.
    fn answer(&self, prompt: &[i32], begun: &[i32], tokens: usize) -> Vec<i32> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT))
            .with_n_batch(CONTEXT)
            .with_n_ubatch(CONTEXT)
            .with_n_threads(1)
            .with_n_threads_batch(1);
        let mut context = self.model.new_context(logits::backend(), params).unwrap();
        let mut batch = LlamaBatch::new(CONTEXT as usize, 1);
        for (position, token) in (0..).zip(prompt) {
            batch.add(LlamaToken::new(*token), position, &[0], true).unwrap();
        }
        context.encode(&mut batch).unwrap();
        let (mut next, mut position) = (vec![self.model.decode_start_token().0], 0);
        next.extend(begun);
        let mut written = Vec::new();
        while written.len() < tokens {
            batch.clear();
            for token in &next {
                batch.add(LlamaToken::new(*token), position, &[0], true).unwrap();
                position += 1;
            }
            context.decode(&mut batch).unwrap();
            let scores = context.get_logits_ith(batch.n_tokens() - 1);
            let words = (0..scores.len()).filter(|token| !self.is_control(*token));
            let likeliest = words.max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            next = vec![i32::try_from(likeliest).unwrap()];
            written.extend(&next);
        }
        written
    }
}

#[tokio::test]
async fn a_model_with_an_encoder_answers_as_a_plain_loop_alone_and_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let weights = convert("flan-t5", dir.path());
    let plain = Plain::load(&weights);
    let bans = plain.bans();
    let engine = start(&weights, "t5", |spec| spec.slots = 3);
    // the prompts of the reference, and beginnings of one: what was read last must not tell
    let mut prompts: Vec<Vec<i32>> =
        cases("flan-t5").iter().filter_map(|case| case.encoder.clone()).collect();
    let first = prompts[0].clone();
    prompts.extend([&first[..7], &first[..19]].map(<[i32]>::to_vec));
    let ask = async |prompt: &Vec<i32>| {
        let reply =
            complete(&engine, json!({"prompt": prompt, "max_tokens": 24, "logprobs": 0, "logit_bias": bans}))
                .await;
        (
            reply.usage.unwrap(),
            reply.choices[0].text.clone(),
            reply.choices[0].logprobs.clone().unwrap().tokens,
        )
    };
    let mut alone = Vec::new();
    for prompt in &prompts {
        let expected = plain.answer(prompt, &[], 24);
        let said = ask(prompt).await;
        let (usage, text, tokens) = &said;
        assert_eq!(usage.prompt_tokens as usize, prompt.len());
        assert_eq!(usage.completion_tokens as usize, expected.len());
        let texts = plain.texts(&expected);
        assert_eq!(*tokens, texts, "{prompt:?}");
        // but for the blank that stands before the first word
        assert_eq!(*text, texts.concat().strip_prefix(' ').unwrap_or(&texts.concat()));
        alone.push(said);
    }
    let all = prompts.iter().chain(&prompts).chain(&prompts);
    let together = futures_util::future::join_all(all.map(&ask)).await;
    for (index, said) in together.iter().enumerate() {
        assert_eq!(*said, alone[index % prompts.len()], "beside others");
    }
    // what is begun with is gone on with, and several answers are of one prompt
    let reply =
        complete(&engine, json!({"prompt": prompts[0], "max_tokens": 24, "n": 3, "logit_bias": bans})).await;
    assert!(reply.choices.iter().all(|choice| choice.text == alone[0].1), "{reply:?}");
    engine.stop();
}

#[tokio::test]
async fn a_chat_with_it_is_a_dialogue_that_loses_its_oldest_turns_and_too_long_a_text_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let weights = convert("flan-t5", dir.path());
    let engine = start(&weights, "t5", |_| {});
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let chat = async |messages: &[Value]| {
        let body = json!({"model": "smol", "temperature": 0, "max_tokens": 8, "messages": messages});
        engine.send(hyper::Method::POST, "/v1/chat/completions", &body).await
    };
    let dropped = |response: &hyper::Response<hyper::body::Incoming>| {
        response.headers().get("x-bramble-dropped-turns").map(|value| value.to_str().unwrap().to_owned())
    };
    let mut messages = vec![said("system", "Be brief."), said("user", "hello there")];
    let response = chat(&messages).await;
    assert_eq!((response.status(), dropped(&response)), (StatusCode::OK, None));
    for turn in 0..40 {
        messages.push(said("assistant", &format!("answer number {turn}")));
        messages.push(said("user", &format!("question number {turn}")));
    }
    let response = chat(&messages).await;
    assert_eq!(response.status(), StatusCode::OK);
    let turns: usize = dropped(&response).unwrap().parse().unwrap();
    assert!((1..40).contains(&turns), "{turns}");
    // so many and no fewer: with one more turn kept it is too long
    let kept = |turns: usize| -> String {
        let kept = messages[2 * turns + 1..].iter();
        let lines = kept.map(|message| {
            let speaker = if message["role"] == "user" { "User" } else { "Assistant" };
            format!("{speaker}: {}\n", message["content"].as_str().unwrap())
        });
        format!("Be brief.\n\n{}Assistant:", lines.collect::<String>())
    };
    let tokens = async |(text, begins): (&str, bool)| -> Vec<i32> {
        let (_, bytes) = engine.ask("/tokenize", &json!({"content": text, "add_special": begins})).await;
        serde_json::from_value(serde_json::from_slice::<Value>(&bytes).unwrap()["tokens"].take()).unwrap()
    };
    assert!(tokens((&kept(turns), true)).await.len() <= CONTEXT as usize);
    assert!(tokens((&kept(turns - 1), true)).await.len() > CONTEXT as usize);

    let long = "word ".repeat(CONTEXT as usize + 1);
    let only = [said("user", &long)];
    assert_eq!(chat(&only).await.status(), StatusCode::BAD_REQUEST);
    let (status, bytes) = engine.ask("/v1/completions", &json!({"model": "smol", "prompt": long})).await;
    let error = String::from_utf8_lossy(&bytes).into_owned();
    assert!(status == StatusCode::BAD_REQUEST && error.contains("context_length_exceeded"), "{error}");
    assert!(error.contains(&format!("{CONTEXT} tokens")), "{error}");

    // an answer that was cut is gone on with
    let begun = [said("user", "tell me of the sea"), said("assistant", "it is wide and")];
    let plain = Plain::load(&weights);
    let body = json!({
        "model": "smol", "temperature": 0, "max_tokens": 12, "messages": begun, "logit_bias": plain.bans(),
        "logprobs": true,
    });
    let reply = engine.chat(&body).await;
    let said = reply.choices[0].logprobs.clone().unwrap().content;
    let [read, written] = [("tell me of the sea", true), ("it is wide and", false)];
    let expected = plain.answer(&tokens(read).await, &tokens(written).await, 12);
    let said: Vec<String> = said.into_iter().map(|token| token.taken.token).collect();
    assert_eq!(said, plain.texts(&expected));

    let (status, bytes) = engine.ask("/v1/embeddings", &json!({"model": "smol", "input": "the sea"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{}", String::from_utf8_lossy(&bytes));
    engine.stop();
}

#[tokio::test]
async fn gpt_neo_says_beyond_its_window_what_transformers_says() {
    let dir = tempfile::tempdir().unwrap();
    let weights = convert("gptneo", dir.path());
    let case = cases("gptneo").into_iter().find(|case| case.len() == 2000).unwrap();
    let engine = start(&weights, "gpt2", |spec| (spec.context, spec.slots) = (2048, 2));
    // prompts of many lengths: read at once, and a few tokens at a time behind what is in the cache
    let near = [199, 255, 256, 257, 299, 512, 999].into_iter().chain(1000..1020).chain([1500, 1999]);
    let ask = async |length: usize| {
        let prompt = &case.ids[..=length];
        let reply = complete(&engine, json!({"prompt": prompt, "max_tokens": 1, "logprobs": 1})).await;
        let top = reply.choices[0].logprobs.clone().unwrap().top_logprobs.remove(0);
        (length, top.keys().next().cloned().unwrap_or_default())
    };
    let lengths: Vec<usize> = near.collect();
    let mut said = Vec::new();
    for &length in &lengths {
        said.push(ask(length).await);
    }
    // longest first: beginnings of what is in the cache
    said.extend(futures_util::future::join_all(lengths.iter().rev().map(|&length| ask(length))).await);
    let mut wrong = Vec::new();
    for (length, token) in said {
        let expected = text_of(&engine, &[case.argmax[length]]).await;
        if token != expected {
            wrong.push((length, token, expected));
        }
    }
    // places where two tokens are all but equally likely: 1 in 200 was seen
    assert!(wrong.len() <= 1, "{wrong:?}");
    engine.stop();
}

#[tokio::test]
async fn an_embedding_is_the_models_own_last_state_whatever_goes_on_beside() {
    let dir = tempfile::tempdir().unwrap();
    let weights = convert("llama", dir.path());
    let model =
        LlamaModel::load_from_file(logits::backend(), &weights, &LlamaModelParams::default()).unwrap();
    let plain = |tokens: &[i32]| -> Vec<f32> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT))
            .with_n_batch(CONTEXT)
            .with_n_ubatch(CONTEXT)
            .with_embeddings(true)
            .with_n_threads(1)
            .with_n_threads_batch(1);
        let mut context = model.new_context(logits::backend(), params).unwrap();
        let mut batch = LlamaBatch::new(CONTEXT as usize, 1);
        for (position, token) in (0..).zip(tokens) {
            batch.add(LlamaToken::new(*token), position, &[0], true).unwrap();
        }
        context.decode(&mut batch).unwrap();
        let state = context.embeddings_ith(i32::try_from(tokens.len() - 1).unwrap()).unwrap();
        let length = state.iter().map(|value| value * value).sum::<f32>().sqrt();
        state.iter().map(|value| value / length).collect()
    };
    let engine = start(&weights, "llama", |spec| spec.slots = 3);
    let inputs: Vec<Vec<i32>> =
        (1..7).map(|n| (0..40 * n).map(|at| 3 + (at * 7 + n) % 250).collect()).collect();
    let embed = async |input: &Value| {
        let (status, bytes) = engine.ask("/v1/embeddings", &json!({"model": "smol", "input": input})).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
        let reply: Value = serde_json::from_slice(&bytes).unwrap();
        let numbers = |one: &Value| {
            one["embedding"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect()
        };
        (
            reply["usage"]["prompt_tokens"].as_u64().unwrap(),
            reply["data"].as_array().unwrap().iter().map(numbers).collect(),
        )
    };
    let talk = async || {
        let body = json!({"model": "smol", "prompt": "neighbours talk", "max_tokens": 60, "stream": true});
        let (status, bytes) = engine.ask("/v1/completions", &body).await;
        assert!(status == StatusCode::OK && bytes.ends_with(b"data: [DONE]\n\n"));
    };
    let all = json!(inputs);
    let ((tokens, many), ..): ((u64, Vec<Vec<f64>>), _, _) = tokio::join!(embed(&all), talk(), talk());
    assert_eq!(tokens, inputs.iter().map(|input| input.len() as u64).sum::<u64>());
    for (input, found) in inputs.iter().zip(&many) {
        let expected = plain(input);
        assert_eq!(found.len(), expected.len());
        let nearness: f64 = found.iter().zip(&expected).map(|(a, b)| a * f64::from(*b)).sum();
        assert!(nearness > 0.999, "{nearness}");
    }
    // from the cache it is the same
    let (_, again): (_, Vec<Vec<f64>>) = embed(&json!(inputs[5])).await;
    let nearness: f64 = again[0].iter().zip(&many[5]).map(|(a, b)| a * b).sum();
    assert!(nearness > 0.999, "{nearness}");
    // other texts are others
    let nearness: f64 = many[0].iter().zip(&many[5]).map(|(a, b)| a * b).sum();
    assert!(nearness < 0.99, "{nearness}");
    let (status, bytes) = engine.ask("/v1/embeddings", &json!({"model": "smol", "input": [999_999]})).await;
    let error = String::from_utf8_lossy(&bytes).into_owned();
    assert!(status == StatusCode::BAD_REQUEST && error.contains("no token 999999"), "{error}");
    engine.stop();
}
