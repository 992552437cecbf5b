use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::arguments::{Chat, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::{doors, fleet, output};
use crate::keys::Safe;
use crate::manifest::Via;
use crate::plan::door_tls;
use crate::terminal;
use crate::units::TokensPerSec;

/// A Pi may rightly need minutes for a long prompt; the door's own deadlines are shorter.
const PATIENCE: Duration = Duration::from_mins(10);

/// A door that is there takes a connection at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The longest question that is read from standard input, in bytes.
const LONGEST_PROMPT: u64 = 1 << 20;

/// An answer, and who gave it.
#[derive(Debug, Serialize)]
struct Reply {
    answer: String,
    host: Option<String>,
    model: Option<String>,
    quant: Option<String>,
    generation: Option<String>,
    fallback_reason: Option<String>,
    tokens: Option<u64>,
    tokens_per_second: Option<f64>,
    seconds: f64,
}

/// Asks a model at a host's door and prints the answer with who gave it.
pub(crate) async fn run(verb: &Chat, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = fleet::load(&global.file)?;
    let spec =
        manifest.hosts.get(&verb.host).with_context(|| format!("the manifest has no host {}", verb.host))?;
    let address = spec.via.address().with_context(|| match &spec.via {
        Via::Board(stated) => fleet::not_bought(&verb.host, &stated.board),
        _ => format!("{} is not a host of ours: ask it through another host's route", verb.host),
    })?;
    let model = match &verb.model {
        Some(model) => model,
        None => manifest.models.keys().next().context("the manifest has no model")?,
    };
    let safe = Safe::open(&environment.state, &manifest.fleet)?;
    let keys =
        safe.keys().with_context(|| format!("the fleet {} was never applied from here", manifest.fleet))?;
    let serve = (manifest.serve.port, door_tls(&manifest));
    let prompt = if let Some(prompt) = &verb.prompt {
        prompt.clone()
    } else {
        let mut text = String::new();
        std::io::stdin().lock().take(LONGEST_PROMPT).read_to_string(&mut text)?;
        text
    };
    anyhow::ensure!(
        !prompt.trim().is_empty(),
        "there is nothing to ask: give a prompt, or write it to standard input"
    );
    let system = verb.system.iter().map(|text| serde_json::json!({ "role": "system", "content": text }));
    let question = serde_json::json!({ "role": "user", "content": prompt });
    let messages: Vec<serde_json::Value> = system.chain([question]).collect();
    let body = serde_json::json!({
        "model": model,
        "messages": messages,
        "max_tokens": verb.max_tokens,
        "temperature": verb.temperature,
    });
    let door = doors::door(&safe, &verb.host, address, serve)?;
    let url = format!("{}/v1/chat/completions", door.url);
    let started = Instant::now();
    let client = door.client(CONNECT_PATIENCE, PATIENCE)?;
    let reply = client
        .post(&url)
        .bearer_auth(keys.operator_key())
        .json(&body)
        .send()
        .await
        .with_context(|| format!("{} does not answer at {url}", verb.host))?;
    let header = |name: &str| {
        let value = reply.headers().get(name)?.to_str().ok()?;
        Some(terminal::line(value))
    };
    let mut answer = Reply {
        answer: String::new(),
        host: header("x-bramble-host"),
        model: header("x-bramble-model"),
        quant: header("x-bramble-quant"),
        generation: header("x-bramble-generation"),
        fallback_reason: header("x-bramble-fallback-reason"),
        tokens: None,
        tokens_per_second: None,
        seconds: 0.0,
    };
    let status = reply.status();
    let value: serde_json::Value = reply
        .json()
        .await
        .with_context(|| format!("{} answered with something that is not JSON", verb.host))?;
    answer.seconds = started.elapsed().as_secs_f64();
    if !status.is_success() {
        let message = value["error"]["message"].as_str().unwrap_or("no reason was given");
        anyhow::bail!("{} answered {status}: {}", verb.host, terminal::text(message));
    }
    let text = value["choices"][0]["message"]["content"].as_str().context("the answer has no text")?;
    text.clone_into(&mut answer.answer);
    answer.tokens = value["usage"]["completion_tokens"].as_u64();
    answer.tokens_per_second = value["timings"]["predicted_per_second"].as_f64();
    if global.json {
        output::json(&answer)?;
    } else {
        // a model may say anything, also what would steer a terminal
        output::result(&format!("{}\n", terminal::text(answer.answer.trim_end())))?;
        output::say(&environment.style.dim(&who(&answer)));
    }
    Ok(Exit::Done)
}

fn who(answer: &Reply) -> String {
    let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
    let mut text = format!("  answered by {}: {}", or_unknown(&answer.host), or_unknown(&answer.model));
    if let Some(quant) = &answer.quant {
        text.push(' ');
        text.push_str(quant);
    }
    if let Some(generation) = &answer.generation {
        text.push_str(", generation ");
        text.push_str(generation);
    }
    if let Some(speed) = answer.tokens_per_second {
        text.push_str(", ");
        text.push_str(&TokensPerSec(speed).to_string());
    }
    if let Some(reason) = &answer.fallback_reason {
        text.push_str("\n  not the first choice: ");
        text.push_str(reason);
    }
    text
}
