//! The engine as a client meets it, on [`Echo`] instead of llama.cpp.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fake::Echo;
use super::serve::{Setup, host};
use super::{Error, Loaded};
use crate::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, KvType, Layout, LoadMode, Pace, Program, Weights,
};
use crate::ids::Digest;
use crate::notify::Notify;
use crate::openai::sse;
use crate::quant::Quant;
use crate::units::{Bytes as Amount, TokensPerSec};

pub(crate) const CHAT: &str = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";

const PACE: Pace =
    Pace { prompt: TokensPerSec(1.0), answer: TokensPerSec(1.0), load_seconds: 1.0, is_guess: false };

pub(super) fn spec(slots: u32) -> EngineSpec {
    EngineSpec {
        model: "parrot".parse().unwrap(),
        weights: Weights {
            recipe: Digest::of(b"recipe"),
            digest: None,
            bytes: Amount(1),
            quant: Some(Quant::Q8_0),
            architecture: "llama".to_owned(),
        },
        context: 400,
        slots,
        threads: 1,
        micro_batch: 8,
        load: LoadMode::Mmap,
        repack: false,
        kv: KvType::F16,
        need: Amount::ZERO,
        keep_prompts: false,
        pace: PACE,
    }
}

/// Lays out generation 3 under `root` and makes it the current one.
pub(super) fn install(root: &Path, engines: Vec<EngineSpec>) {
    let layout = Layout::new(root);
    let folder = layout.generation("3".parse().unwrap());
    std::fs::create_dir_all(folder.join("models")).unwrap();
    std::os::unix::fs::symlink(&folder, layout.current()).unwrap();
    let definition = Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "shed".parse().unwrap(),
        program: Program { digest: Digest::of(b"program"), version: "0.1.0".to_owned(), gpu: None },
        engines,
        door: DoorSpec { port: 8443, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
    };
    std::fs::write(Layout::definition(&folder), serde_json::to_vec(&definition).unwrap()).unwrap();
}

pub(crate) struct Running {
    folder: tempfile::TempDir,
    setup: Setup,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), Error>>,
}

/// Starts an engine that repeats its prompts, and waits until it is ready.
pub(crate) async fn start(
    slots: u32,
    template: Option<&str>,
    permits: Option<mpsc::Receiver<()>>,
) -> Running {
    let running = begin(slots, template, permits, None);
    loop {
        if let Ok(stream) = UnixStream::connect(running.socket()).await {
            let (status, health) = ask_on(stream, Method::GET, "/health", &Value::Null).await;
            if status == StatusCode::OK {
                assert_eq!(health["status"], "ready");
                return running;
            }
        }
        tokio::task::yield_now().await;
    }
}

fn begin(
    slots: u32,
    template: Option<&str>,
    permits: Option<mpsc::Receiver<()>>,
    go: Option<mpsc::Receiver<()>>,
) -> Running {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), vec![spec(slots)]);
    let setup = Setup::read(folder.path(), &"parrot".parse().unwrap()).unwrap();
    let loaded = Loaded {
        slots: slots as usize,
        context: 400,
        batch: 8,
        vocabulary: 257,
        chat_template: template.map(str::to_owned),
        cpu: "beak".to_owned(),
        gpu: None,
        ..Loaded::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let for_host = setup.clone();
    let served = tokio::spawn(async move {
        let load = move |_: &std::sync::Arc<super::health::Shared>, work: &mut super::serve::Work<'_>| {
            if let Some(go) = go {
                go.recv()
                    .map_err(|_| Error::Load { what: "load the weights", reason: "told so".to_owned() })?;
            }
            work(&mut Echo::new(&loaded, permits), loaded.clone())
        };
        let stopped = async {
            let _ = stopped.await;
        };
        host(&for_host, Notify::default(), load, stopped).await
    });
    Running { folder, setup, stop: Some(stop), served }
}

impl Running {
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.setup.layout.engine_socket(&self.setup.spec.model)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        ask_on(stream, method, path, body).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(Method::POST, path, body).await
    }

    async fn complete(&self, prompt: &str) -> (StatusCode, Value) {
        self.post("/v1/completions", &json!({"model": "parrot", "prompt": prompt})).await
    }

    /// Waits until `/health` counts so many running and queued requests.
    async fn await_load(&self, running: u64, queued: u64) {
        loop {
            let (_, health) = self.ask(Method::GET, "/health", &Value::Null).await;
            if health["running"] == running && health["queued"] == queued {
                return;
            }
        }
    }

    /// Waits until three requests are there.
    async fn await_three(&self) {
        loop {
            let (_, health) = self.ask(Method::GET, "/health", &Value::Null).await;
            if health["running"].as_u64().unwrap() + health["queued"].as_u64().unwrap() == 3 {
                return;
            }
        }
    }

    pub(crate) async fn end(mut self) -> Result<(), Error> {
        self.stop.take().unwrap().send(()).unwrap();
        let outcome = self.served.await.unwrap();
        assert!(!self.setup.layout.run_dir().join("engine-parrot.sock").exists());
        drop(self.folder);
        outcome
    }
}

pub(super) async fn connect(stream: UnixStream) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) fn request(method: Method, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    Request::builder().method(method).uri(path).header("host", "x").body(Full::new(body)).unwrap()
}

async fn ask_on(stream: UnixStream, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let response = connect(stream).await.send_request(request(method, path, body)).await.unwrap();
    assert_eq!(response.headers()["x-bramble-model"], "parrot");
    assert_eq!(response.headers()["x-bramble-quant"], "Q8_0");
    assert_eq!(response.headers()["x-bramble-generation"], "3");
    let status = response.status();
    assert_eq!(
        status == StatusCode::SERVICE_UNAVAILABLE && path != "/health",
        response.headers().contains_key("retry-after")
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

pub(super) async fn stream(running: &Running, path: &str, body: &Value) -> Vec<String> {
    let stream = UnixStream::connect(running.socket()).await.unwrap();
    let response = connect(stream).await.send_request(request(Method::POST, path, body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let mut scanner = sse::Scanner::default();
    scanner.push(&bytes);
    std::iter::from_fn(|| scanner.next().unwrap()).collect()
}

#[tokio::test]
async fn a_chat_is_answered_whole_and_in_pieces_alike() {
    let running = start(1, Some(CHAT), None).await;
    let mut body = json!({"model": "parrot", "messages": [{"role": "user", "content": "héllo"}]});
    let (status, reply) = running.post("/v1/chat/completions", &body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["choices"][0]["message"], json!({"role": "assistant", "content": "[user:héllo]"}));
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    // 13 bytes of prompt; the answer is as long, and ends with a token of its own
    assert_eq!(reply["usage"], json!({"prompt_tokens": 13, "completion_tokens": 14, "total_tokens": 27}));
    assert_eq!(reply["timings"]["prompt_n"], 13);
    assert_eq!(reply["timings"]["predicted_n"], 14);

    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let mut events = stream(&running, "/v1/chat/completions", &body).await;
    assert_eq!(events.pop().as_deref(), Some(sse::DONE));
    let chunks: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "[user:héllo]");
    let [.., finish, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(27)));
    // the prompt was in the cache but for its last token
    assert_eq!(usage["timings"]["prompt_n"], 1);
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_completion_ends_at_its_limit_and_at_stop_strings() {
    let running = start(1, None, None).await;
    let ask = async |extra: Value| {
        let mut body = json!({"model": "parrot", "prompt": "one two three"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let whole = running.post("/v1/completions", &body).await.1;
        body["stream"] = json!(true);
        let mut events = stream(&running, "/v1/completions", &body).await;
        assert_eq!(events.pop().as_deref(), Some(sse::DONE));
        let chunks: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        let last = &chunks.last().unwrap()["choices"][0]["finish_reason"];
        let choice = &whole["choices"][0];
        assert_eq!((&json!(text), last), (&choice["text"], &choice["finish_reason"]));
        (text, last.as_str().unwrap().to_owned())
    };
    assert_eq!(ask(json!({})).await, ("one two three".into(), "stop".into()));
    assert_eq!(ask(json!({"max_tokens": 5})).await, ("one t".into(), "length".into()));
    assert_eq!(ask(json!({"stop": [" th", "zzz"]})).await, ("one two".into(), "stop".into()));
    // a beginning of a stop string that comes to nothing is given out at the end
    assert_eq!(
        ask(json!({"stop": "eez", "max_tokens": 13})).await,
        ("one two three".into(), "length".into())
    );
    running.end().await.unwrap();
}

/// Returns the chunks of a stream, which must end as it should.
pub(super) async fn chunks(running: &Running, path: &str, body: &Value) -> Vec<Value> {
    let mut events = stream(running, path, body).await;
    assert_eq!(events.pop().as_deref(), Some(sse::DONE));
    events.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn several_answers_to_one_prompt_come_side_by_side() {
    let running = start(2, Some(CHAT), None).await;
    let mut body = json!({"model": "parrot", "n": 3, "messages": [{"role": "user", "content": "hi"}]});
    let (status, reply) = running.post("/v1/chat/completions", &body).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let choices = reply["choices"].as_array().unwrap();
    for (number, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["message"]["content"]), (&json!(number), &json!("[user:hi]")));
    }
    // one prompt, and ten tokens of each answer
    assert_eq!(
        (choices.len(), &reply["usage"]),
        (3, &json!({"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}))
    );

    body["stream"] = json!(true);
    let chunks = chunks(&running, "/v1/chat/completions", &body).await;
    for number in 0..3 {
        let of_it: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0])
            .filter(|choice| choice["index"] == number)
            .collect();
        let text: String = of_it.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "[user:hi]");
        assert_eq!(of_it.iter().filter(|choice| choice["delta"]["role"] == "assistant").count(), 1);
        assert_eq!(of_it.last().unwrap()["finish_reason"], "stop");
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn each_token_is_told_with_how_likely_it_was_but_none_of_a_stop_string() {
    let running = start(1, Some(CHAT), None).await;
    let mut body = json!({"model": "parrot", "prompt": "one two", "logprobs": 2, "stop": "wo"});
    let (_, reply) = running.post("/v1/completions", &body).await;
    let lists = &reply["choices"][0]["logprobs"];
    assert_eq!(lists["tokens"], json!(["o", "n", "e", " ", "t"]));
    assert_eq!(lists["text_offset"], json!([0, 1, 2, 3, 4]));
    assert_eq!(lists["top_logprobs"][0].as_object().unwrap().len(), 2);
    assert!(lists["token_logprobs"][0].as_f64().unwrap() > -0.1, "{lists}");
    body["stream"] = json!(true);
    let pieces = chunks(&running, "/v1/completions", &body).await;
    let (mut tokens, mut offsets) = (Vec::new(), Vec::new());
    for logprobs in pieces.iter().map(|chunk| &chunk["choices"][0]["logprobs"]).filter(|it| !it.is_null()) {
        tokens.extend(logprobs["tokens"].as_array().unwrap().clone());
        offsets.extend(logprobs["text_offset"].as_array().unwrap().clone());
    }
    assert_eq!((json!(tokens), json!(offsets)), (lists["tokens"].clone(), lists["text_offset"].clone()));

    let body = json!({
        "model": "parrot", "messages": [{"role": "user", "content": "é"}], "logprobs": true, "top_logprobs": 1,
    });
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| serde_json::from_value::<Vec<u8>>(token["bytes"].clone()).unwrap())
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "[user:é]");
    // half a character is shown as what it is not
    assert_eq!(
        (&content[6]["token"], &content[6]["bytes"], &content[6]["top_logprobs"][0]["bytes"]),
        (&json!("\u{fffd}"), &json!([0xc3]), &json!([0xc3]))
    );
    running.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_keeps_to_the_form_that_was_asked_for() {
    let running = start(1, Some(CHAT), None).await;
    let schema = json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false,
    });
    let body = json!({
        "model": "parrot", "messages": [{"role": "user", "content": "no JSON at all"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "ok", "strict": true, "schema": schema}},
    });
    let (status, reply) = running.post("/v1/chat/completions", &body).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let said: Value =
        serde_json::from_str(reply["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(said["ok"].is_boolean(), "{said}");
    // it is of that answer alone
    assert_eq!(running.complete("free").await.1["choices"][0]["text"], "free");
    running.end().await.unwrap();
}

/// A template that tells of tools, in the way of Hermes and Qwen.
const TOOLS: &str = "{% if tools %}{% for tool in tools %}{{ tool.function.name }} {% endfor %}<tool_call>{% endif %}\
    {% for m in messages %}{{ m.content }}{% for call in m.tool_calls %}{{ call.id }} {% endfor %}{% endfor %}";

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"],
        "additionalProperties": false, "$defs": {"city": {"enum": ["Bern", "Oslo"]}},
    }}})
}

#[tokio::test]
async fn calls_of_tools_are_found_whole_and_in_pieces() {
    // the template says nothing but the message: the parrot's answer is the call
    let running =
        start(1, Some("{% if tools %}{% endif %}{#<tool_call>#}{{ messages[0].content }}"), None).await;
    let call = "Well.<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>";
    let mut body = json!({
        "model": "parrot", "messages": [{"role": "user", "content": call}], "tools": [weather()], "logprobs": true,
    });
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    let choice = &reply["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Well."))
    );
    let called = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&called["type"], &called["function"]),
        (&json!("function"), &json!({"name": "weather", "arguments": "{\"city\":\"Bern\"}"}))
    );
    assert!(called["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), call.len());

    body["stream"] = json!(true);
    let chunks = chunks(&running, "/v1/chat/completions", &body).await;
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(text, "Well.");
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta.get("tool_calls")).collect();
    assert_eq!(
        (calls.len(), &calls[0][0]["index"], &calls[0][0]["function"]),
        (1, &json!(0), &called["function"])
    );
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let told: usize = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(told, call.len());

    // whoever forbids calls gets the text
    body["tool_choice"] = json!("none");
    body["stream"] = json!(false);
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    assert_eq!(
        (&reply["choices"][0]["message"]["content"], &reply["choices"][0]["finish_reason"]),
        (&json!(call), &json!("stop"))
    );
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_wanted_is_made_and_keeps_to_its_schema() {
    let running = start(1, Some(TOOLS), None).await;
    let mut body = json!({
        "model": "parrot", "messages": [{"role": "user", "content": "x"}], "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "time"}}, weather()],
    });
    let ask = async |body: &Value| {
        let (status, reply) = running.post("/v1/chat/completions", body).await;
        assert_eq!(
            (status, &reply["choices"][0]["finish_reason"]),
            (StatusCode::OK, &json!("tool_calls")),
            "{reply}"
        );
        reply["choices"][0]["message"]["tool_calls"].as_array().unwrap().clone()
    };
    let any = ask(&body).await;
    assert!(["time", "weather"].contains(&any[0]["function"]["name"].as_str().unwrap()), "{any:?}");
    body["tool_choice"] = json!({"type": "function", "function": {"name": "weather"}});
    body["parallel_tool_calls"] = json!(false);
    let one = ask(&body).await;
    let arguments: Value = serde_json::from_str(one[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(one.len() == 1 && ["Bern", "Oslo"].contains(&arguments["city"].as_str().unwrap()), "{one:?}");

    // the answer of the tool goes back in, and the model goes on from there
    let turn = json!({"role": "assistant", "content": null, "tool_calls": one});
    body["messages"] = json!([{"role": "user", "content": "x"}, turn, {"role": "tool", "tool_call_id": one[0]["id"], "content": "rain"}]);
    body["tool_choice"] = json!("auto");
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    let said = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(said.contains(one[0]["id"].as_str().unwrap()) && said.ends_with("rain"), "{said}");
    running.end().await.unwrap();

    let running = start(1, Some(CHAT), None).await;
    let (status, reply) = running.post("/v1/chat/completions", &body).await;
    assert_eq!((status, &reply["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("tools")));
    assert!(reply["error"]["message"].as_str().unwrap().contains("template has no tools"), "{reply}");
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_a_model_thinks_is_not_what_it_says() {
    let template = "{#<think>#}{{ messages[0].content }}{{ '<think>' if enable_thinking | default(true) }}";
    let running = start(1, Some(template), None).await;
    let mut body =
        json!({"model": "parrot", "messages": [{"role": "user", "content": "Hm.\n</think>\n\nYes."}]});
    // the prompt ends within a thought
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    let message = &reply["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("Hm."), &json!("Yes.<think>")));
    body["stream"] = json!(true);
    let chunks = chunks(&running, "/v1/chat/completions", &body).await;
    let joined = |name: &str| -> String {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][name].as_str()).collect()
    };
    assert_eq!(
        (joined("reasoning_content"), joined("content")),
        ("Hm.".to_owned(), "Yes.<think>".to_owned())
    );
    // told not to, it does not
    body["stream"] = json!(false);
    body["chat_template_kwargs"] = json!({"enable_thinking": false});
    let (_, reply) = running.post("/v1/chat/completions", &body).await;
    let message = &reply["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&Value::Null, &json!("Hm.\n</think>\n\nYes."))
    );
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_was_done_is_counted() {
    let running = start(2, None, None).await;
    running.complete("one two").await;
    running.complete("one two three").await;
    running.post("/v1/completions", &json!({"model": "parrot", "prompt": "abc", "max_tokens": 2})).await;
    running.complete("oops!").await;
    let stream = UnixStream::connect(running.socket()).await.unwrap();
    let response =
        connect(stream).await.send_request(request(Method::GET, "/metrics", &Value::Null)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    for line in [
        "bramble_engine_answers_total{model=\"parrot\",outcome=\"stop\"} 2",
        "bramble_engine_answers_total{model=\"parrot\",outcome=\"length\"} 1",
        "bramble_engine_answers_total{model=\"parrot\",outcome=\"failed\"} 1",
        // of the second prompt, the first seven are there already; each answer's end is a token, too
        "bramble_engine_prompt_tokens_total{model=\"parrot\"} 16",
        "bramble_engine_cached_tokens_total{model=\"parrot\"} 7",
        "bramble_engine_answer_tokens_total{model=\"parrot\"} 24",
        "bramble_engine_slots{model=\"parrot\"} 2",
        "bramble_engine_running{model=\"parrot\"} 0",
        "bramble_engine_gpu_layers{model=\"parrot\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let of_engine = |line: &str| line.starts_with("# TYPE") && !line.contains("memory_available");
    assert_eq!(text.lines().filter(|line| of_engine(line)).count(), 12);
    running.end().await.unwrap();
}

#[tokio::test]
async fn text_becomes_tokens_and_tokens_text() {
    let running = start(1, None, None).await;
    let (_, list) = running.post("/tokenize", &json!({"content": "hé"})).await;
    assert_eq!(list, json!({"tokens": [104, 195, 169]}));
    let (_, list) = running.post("/tokenize", &json!({"content": "hé", "with_pieces": true})).await;
    assert_eq!(list["tokens"][0], json!({"id": 104, "piece": "h"}));
    assert_eq!(list["tokens"][1], json!({"id": 195, "piece": [195]}));
    let (_, text) = running
        .post("/detokenize", &json!({"tokens": [104, 195, 169, 256, 9999, -7], "model": "parrot"}))
        .await;
    assert_eq!(text, json!({"content": "hé<end>"}));
    let (status, _) = running.post("/tokenize", &json!({"content": "x", "model": "crow"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, reply) = running.post("/detokenize", &json!({"tokens": "x"})).await;
    assert_eq!((status, &reply["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("tokens")));
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let running = start(1, None, None).await;
    let chat = json!({"model": "parrot", "messages": [{"role": "user", "content": "x"}]});
    let cases = [
        (json!({"model": "crow", "prompt": "x"}), StatusCode::NOT_FOUND, "model_not_found", "'crow'"),
        (json!({"prompt": "x"}), StatusCode::BAD_REQUEST, "", "'model' is missing"),
        (
            json!({"model": "parrot", "prompt": "x", "temperature": "hot"}),
            StatusCode::BAD_REQUEST,
            "",
            "'temperature'",
        ),
        (
            json!({"model": "parrot", "prompt": "x", "temperature": 9}),
            StatusCode::BAD_REQUEST,
            "",
            "from 0 to 2",
        ),
        (
            json!({"model": "parrot", "prompt": "x", "max_tokens": 0}),
            StatusCode::BAD_REQUEST,
            "",
            "max_tokens",
        ),
        (json!({"model": "parrot", "prompt": "x", "stop": [""]}), StatusCode::BAD_REQUEST, "", "'stop'"),
        (json!({"model": "parrot", "prompt": ""}), StatusCode::BAD_REQUEST, "", "empty"),
        (
            json!({"model": "parrot", "prompt": "x", "best_of": 3, "echo": true}),
            StatusCode::BAD_REQUEST,
            "unsupported_parameter",
            "best_of, echo",
        ),
        (json!({"model": "parrot", "prompt": "x", "n": 9}), StatusCode::BAD_REQUEST, "", "from 1 to 8"),
        (json!({"model": "parrot", "prompt": "x", "logprobs": 21}), StatusCode::BAD_REQUEST, "", "20 tokens"),
        (
            json!({"model": "parrot", "prompt": "x", "response_format": {"type": "json_object", "schema": {"type": "cat"}}}),
            StatusCode::BAD_REQUEST,
            "",
            "'response_format' cannot be kept to",
        ),
        (
            json!({"model": "parrot", "prompt": "x".repeat(450)}),
            StatusCode::BAD_REQUEST,
            "context_length_exceeded",
            "length is 400 tokens, the answer included, and the prompt has 450",
        ),
        (
            json!({"model": "parrot", "prompt": "x".repeat(5 << 20)}),
            StatusCode::PAYLOAD_TOO_LARGE,
            "",
            "larger than",
        ),
    ];
    for (body, status, code, part) in cases {
        let (found, reply) = running.post("/v1/completions", &body).await;
        let error = &reply["error"];
        assert_eq!(found, status, "{error}");
        assert_eq!(error["code"].as_str().unwrap_or_default(), code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let (status, reply) = running.post("/v1/chat/completions", &chat).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(reply["error"]["message"].as_str().unwrap().contains("without a chat template"));
    assert_eq!(
        running.ask(Method::GET, "/v1/completions", &Value::Null).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let (status, reply) = running.ask(Method::GET, "/v2", &Value::Null).await;
    assert_eq!((status, &reply["error"]["message"]), (StatusCode::NOT_FOUND, &json!("no such path")));
    let (_, models) = running.ask(Method::GET, "/v1/models", &Value::Null).await;
    assert_eq!(models["data"][0]["id"], "parrot");
    running.end().await.unwrap();
}

#[tokio::test]
async fn slots_answer_at_the_same_time_without_mixing() {
    let (permits, receiver) = mpsc::channel();
    let running = start(2, None, Some(receiver)).await;
    let one = running.complete("first");
    let two = running.complete("second one, longer than a step");
    let three = running.complete("3rd");
    let drive = async {
        running.await_three().await;
        // the first may have begun alone: its next step is for two
        permits.send(()).unwrap();
        running.await_load(2, 1).await;
        drop(permits);
    };
    let (one, two, three, ()) = tokio::join!(one, two, three, drive);
    for ((status, reply), text) in [(one, "first"), (two, "second one, longer than a step"), (three, "3rd")] {
        assert_eq!((status, &reply["choices"][0]["text"]), (StatusCode::OK, &json!(text)));
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_slot() {
    let (permits, receiver) = mpsc::channel();
    let running = start(1, None, Some(receiver)).await;
    let body = json!({"model": "parrot", "prompt": "a long story", "stream": true});
    let stream = UnixStream::connect(running.socket()).await.unwrap();
    let mut client = connect(stream).await;
    permits.send(()).unwrap();
    permits.send(()).unwrap();
    let response = client.send_request(request(Method::POST, "/v1/completions", &body)).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    let next = running.complete("next");
    let drive = async {
        running.await_load(1, 1).await;
        drop((body, client));
        // the step in hand may still run; the one after it is the next client's
        loop {
            permits.send(()).unwrap();
            let (_, health) = running.ask(Method::GET, "/health", &Value::Null).await;
            if health["queued"] == 0 {
                break;
            }
        }
        drop(permits);
    };
    let ((status, reply), ()) = tokio::join!(next, drive);
    assert_eq!((status, &reply["choices"][0]["text"]), (StatusCode::OK, &json!("next")));
    running.end().await.unwrap();
}

#[tokio::test]
async fn the_queue_has_an_end() {
    let (permits, receiver) = mpsc::channel();
    let running = start(1, None, Some(receiver)).await;
    let first = running.complete("hi");
    let others = async {
        // only once the first has its slot are all places there for the rest
        running.await_load(1, 0).await;
        let crowd = futures_util::future::join_all((0..64).map(|_| running.complete("hi")));
        let drive = async {
            running.await_load(1, 64).await;
            let (status, reply) = running.complete("too late").await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(reply["error"]["code"], "queue_full");
            drop(permits);
        };
        tokio::join!(crowd, drive).0
    };
    let (first, others) = tokio::join!(first, others);
    assert_eq!(first.0, StatusCode::OK);
    assert!(others.iter().all(|(status, _)| *status == StatusCode::OK));
    running.end().await.unwrap();
}

#[tokio::test]
async fn draining_finishes_what_runs_and_sends_the_rest_away() {
    let (permits, receiver) = mpsc::channel();
    let mut running = start(1, None, Some(receiver)).await;
    let stop = running.stop.take().unwrap();
    let first = running.complete("running");
    let second = running.complete("waiting");
    let drive = async {
        running.await_load(1, 1).await;
        stop.send(()).unwrap();
        loop {
            let (status, health) = running.ask(Method::GET, "/health", &Value::Null).await;
            if health["status"] == "draining" {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                break;
            }
        }
        let (status, reply) = running.complete("new").await;
        assert_eq!((status, &reply["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("draining")));
        drop(permits);
    };
    let (first, second, ()) = tokio::join!(first, second, drive);
    let mut outcomes = [first, second].map(|(status, _)| status);
    outcomes.sort();
    assert_eq!(outcomes, [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
    assert!(running.served.await.unwrap().is_ok());
    assert!(!running.setup.layout.run_dir().join("engine-parrot.sock").exists());
}

#[tokio::test]
async fn a_failing_model_is_an_error_and_never_half_an_answer() {
    let running = start(1, None, None).await;
    let (status, reply) = running.complete("oops!").await;
    assert_eq!(
        (status, &reply["error"]["code"]),
        (StatusCode::INTERNAL_SERVER_ERROR, &json!("engine_failed"))
    );
    assert_eq!(running.complete("fine").await.1["choices"][0]["text"], "fine");
    for _ in 0..3 {
        running.complete("oops!").await;
    }
    // three in a row: the process ends, to be started anew
    assert!(matches!(running.served.await.unwrap(), Err(Error::Failing { times: 3, .. })));
}

#[tokio::test]
async fn it_says_that_it_is_loading_and_a_failed_load_ends_it() {
    let (go, wait) = mpsc::channel();
    let running = begin(1, None, None, Some(wait));
    while !running.socket().exists() {
        tokio::task::yield_now().await;
    }
    let (status, health) = running.ask(Method::GET, "/health", &Value::Null).await;
    assert_eq!((status, &health["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("loading")));
    assert_eq!((&health["cpu"], &health["generation"]), (&Value::Null, &json!(3)));
    let (status, reply) = running.complete("x").await;
    assert_eq!((status, &reply["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("loading")));
    drop(go);
    assert!(matches!(running.served.await.unwrap(), Err(Error::Load { .. })));
    assert!(!running.setup.layout.run_dir().join("engine-parrot.sock").exists());
}

#[tokio::test]
async fn a_living_engine_keeps_its_socket_and_a_dead_one_leaves_it() {
    let running = start(1, None, None).await;
    let load = |_: &std::sync::Arc<super::health::Shared>, _: &mut super::serve::Work<'_>| Ok(());
    let second = host(&running.setup, Notify::default(), load, std::future::pending()).await;
    assert!(matches!(second, Err(Error::Running { .. })));
    assert_eq!(running.complete("still here").await.0, StatusCode::OK);
    assert_eq!(running.socket().metadata().unwrap().permissions().mode() & 0o777, 0o660);
    running.end().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), vec![spec(1)]);
    let setup = Setup::read(folder.path(), &"parrot".parse().unwrap()).unwrap();
    std::fs::create_dir_all(setup.layout.run_dir()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(setup.layout.engine_socket(&setup.spec.model)).unwrap());
    assert!(host(&setup, Notify::default(), load, std::future::pending()).await.is_ok());
}
