use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::{Chat, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::{doors, fleet, output};
use crate::ids::HostName;
use crate::keys::Safe;
use crate::manifest::{Manifest, Via};
use crate::openai::{ChatChunk, sse};
use crate::plan::door_tls;
use crate::units::TokensPerSec;
use crate::{status, terminal};

/// A Pi may rightly need minutes for a long prompt; the door's own deadlines are shorter.
const PATIENCE: Duration = Duration::from_mins(10);

/// A door that is there takes a connection at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// More than any door says of why it refuses, and more than any answer takes on its way, in bytes.
const LARGEST_REFUSAL: usize = 64 << 10;
const LARGEST_ANSWER: usize = 128 << 20;

/// The longest question that is read from standard input, in bytes.
const LONGEST_PROMPT: u64 = 1 << 20;

/// What is said where nobody can be asked.
const NO_HOST: &str = "the manifest has no host that could be asked: name one under `hosts`";

/// What is said where there is nothing that could answer.
const NO_MODEL: &str =
    "the manifest has no model that could answer: name one under `models`, and run `bramble apply`";

/// The most hosts that are named where one is not known.
const SHOWN: usize = 8;

/// The longest part of what is no host's name that is said back, in characters.
const LONGEST_SHOWN: usize = 40;

/// An answer, and who gave it.
#[derive(Debug, Default, Serialize)]
struct Reply {
    answer: String,
    host: Option<String>,
    model: Option<String>,
    quant: Option<String>,
    generation: Option<String>,
    fallback_reason: Option<String>,
    /// Who went on with it, and why, where it broke off elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    continued: Vec<String>,
    tokens: Option<u64>,
    tokens_per_second: Option<f64>,
    /// Seconds to the first of the answer.
    first_token_seconds: Option<f64>,
    seconds: f64,
}

/// Asks a model at a host's door and shows the answer as it comes, with who gave it.
pub(crate) async fn run(verb: &Chat, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = fleet::load(&global.file)?;
    let mut talk = Talk::open(verb, &manifest, global, environment)?;
    let is_conversation = verb.prompt.is_none() && environment.can_ask && !global.json;
    if is_conversation {
        return talk.converse().await;
    }
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
    let answer = talk.ask(&prompt).await?;
    if global.json {
        output::json(&answer)?;
    }
    Ok(Exit::Done)
}

/// Returns the host that is asked where none is named: the first that is ours.
fn first(manifest: &Manifest) -> anyhow::Result<HostName> {
    can_be_asked(manifest).next().cloned().context(NO_HOST)
}

fn can_be_asked(manifest: &Manifest) -> impl Iterator<Item = &HostName> {
    manifest.hosts.iter().filter(|(_, spec)| spec.via.address().is_some()).map(|(host, _)| host)
}

/// Returns the host of a name. What is no host is probably the prompt, where none stands behind it.
fn named(text: &str, has_prompt: bool, manifest: &Manifest) -> anyhow::Result<HostName> {
    if let Ok(host) = text.parse::<HostName>()
        && manifest.hosts.contains_key(&host)
    {
        return Ok(host);
    }
    let ours: Vec<&str> = can_be_asked(manifest).map(HostName::as_str).collect();
    let example = ours.first().context(NO_HOST)?;
    let names = ours.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = ours.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let is_cut = text.chars().nth(LONGEST_SHOWN).is_some();
    let shown: String = text.chars().take(LONGEST_SHOWN).chain(is_cut.then_some('…')).collect();
    let next = if has_prompt {
        String::new()
    } else {
        format!("; the host comes before what is asked: `bramble chat {example} \"Hello\"`")
    };
    anyhow::bail!("the manifest has no host {shown:?}: those that can be asked are {names}{more}{next}")
}

/// What has been said at one door.
struct Talk<'a> {
    verb: &'a Chat,
    environment: &'a Environment,
    is_shown: bool,
    safe: Safe,
    host: HostName,
    model: String,
    url: String,
    key: zeroize::Zeroizing<String>,
    client: reqwest::Client,
    messages: Vec<Value>,
}

impl<'a> Talk<'a> {
    fn open(
        verb: &'a Chat,
        manifest: &Manifest,
        global: &Global,
        environment: &'a Environment,
    ) -> anyhow::Result<Self> {
        let host = match &verb.host {
            Some(text) => named(text, verb.prompt.is_some(), manifest)?,
            None => first(manifest)?,
        };
        let spec = manifest.hosts.get(&host).with_context(|| format!("the manifest has no host {host}"))?;
        let address = spec.via.address().with_context(|| match &spec.via {
            Via::Board(stated) => fleet::not_bought(&host, &stated.board),
            _ => format!("{host} is not a host of ours: ask it through another host's route"),
        })?;
        let model = match &verb.model {
            Some(model) => model,
            None => manifest.models.keys().next().context(NO_MODEL)?,
        };
        let safe = Safe::open(&environment.state, &manifest.fleet)?;
        let keys = safe.needed_keys()?;
        let door = doors::door(&safe, &host, address, (manifest.serve.port, door_tls(manifest)))?;
        let system = verb.system.iter().map(|text| json!({ "role": "system", "content": text }));
        Ok(Self {
            verb,
            environment,
            is_shown: !global.json,
            model: model.to_string(),
            url: format!("{}/v1/chat/completions", door.url),
            key: keys.operator_key().to_owned().into(),
            client: door.client(CONNECT_PATIENCE, PATIENCE)?,
            messages: system.collect(),
            safe,
            host,
        })
    }

    /// Asks what a person types, line by line, until the end of the input. Ctrl-C ends an answer, and the second one the
    /// conversation.
    async fn converse(&mut self) -> anyhow::Result<Exit> {
        output::say(&self.environment.style.dim(&format!("{} at {}; Ctrl-D ends", self.model, self.host)));
        loop {
            let read = tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                let mut out = std::io::stderr().lock();
                write!(out, "> ").and_then(|()| out.flush())?;
                std::io::stdin().read_line(&mut line).map(|bytes| (bytes > 0).then_some(line))
            });
            let line = tokio::select! {
                line = read => line??,
                _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
            };
            let Some(line) = line else { return Ok(Exit::Done) };
            if line.trim().is_empty() {
                continue;
            }
            doors::check_current(&self.safe, "chat")?;
            tokio::select! {
                answered = self.ask(line.trim()) => {
                    if let Err(error) = answered {
                        output::error(&error);
                    }
                }
                _ = tokio::signal::ctrl_c() => output::say("\n  (broken off)"),
            }
        }
    }

    /// Asks, and shows the answer as it comes. Once that is whole, both stay with what was said before.
    async fn ask(&mut self, prompt: &str) -> anyhow::Result<Reply> {
        let question = json!({ "role": "user", "content": prompt });
        let reply = self.answer(&question).await?;
        let answer = json!({ "role": "assistant", "content": reply.answer });
        self.messages.extend([question, answer]);
        Ok(reply)
    }

    async fn answer(&self, question: &Value) -> anyhow::Result<Reply> {
        let messages: Vec<&Value> = self.messages.iter().chain([question]).collect();
        let body = json!({
            "model": self.model, "messages": messages, "max_tokens": self.verb.max_tokens,
            "temperature": self.verb.temperature, "stream": true, "stream_options": { "include_usage": true },
        });
        let started = Instant::now();
        let sent = self.client.post(&self.url).bearer_auth(&*self.key).json(&body).send().await;
        // where it was asked is said once
        let mut reply = sent.map_err(reqwest::Error::without_url).with_context(|| {
            let (host, url) = (&self.host, &self.url);
            format!("{host} does not answer at {url}: `bramble status {host}` shows what runs there")
        })?;
        let code = reply.status();
        if !code.is_success() {
            let body = status::body(&mut reply, LARGEST_REFUSAL).await.ok().flatten().unwrap_or_default();
            let value: Value = serde_json::from_slice(&body).unwrap_or_default();
            let message = value["error"]["message"].as_str().unwrap_or("no reason was given");
            anyhow::bail!("{} answered {code}: {}", self.host, terminal::text(message));
        }
        let header = |name: &str| Some(terminal::line(reply.headers().get(name)?.to_str().ok()?));
        let mut answer = Reply {
            host: header("x-bramble-host"),
            model: header("x-bramble-model"),
            quant: header("x-bramble-quant"),
            generation: header("x-bramble-generation"),
            fallback_reason: header("x-bramble-fallback-reason"),
            ..Reply::default()
        };
        let mut scanner = sse::Scanner::with_comments();
        let mut is_whole = false;
        let lost = || format!("the answer of {} broke off, and nobody could go on with it", self.host);
        let mut came = 0;
        while let Some(bytes) = reply.chunk().await.with_context(lost)? {
            came += bytes.len();
            anyhow::ensure!(came <= LARGEST_ANSWER, "{} says more than any model does", self.host);
            scanner.push(&bytes);
            while let Some(event) = scanner.next()? {
                self.tell_of(&mut answer, &scanner.take_comments())?;
                if event == sse::DONE {
                    is_whole = true;
                } else {
                    self.take(&mut answer, &event, started)?;
                }
            }
        }
        anyhow::ensure!(is_whole || scanner.ends_with_done(), "{}", lost());
        answer.seconds = started.elapsed().as_secs_f64();
        if self.is_shown {
            output::verbatim("\n")?;
            output::say(&self.environment.style.dim(&who(&answer)));
        }
        Ok(answer)
    }

    /// Takes one event of the stream.
    fn take(&self, answer: &mut Reply, event: &str, started: Instant) -> anyhow::Result<()> {
        let Ok(chunk) = serde_json::from_str::<ChatChunk>(event) else {
            let value: Value = serde_json::from_str(event)
                .with_context(|| format!("{} answered with something that is not JSON", self.host))?;
            let message = value["error"]["message"].as_str().unwrap_or("it says what cannot be read");
            anyhow::bail!("the answer ended before its time: {}", terminal::text(message));
        };
        if let Some(usage) = chunk.usage {
            answer.tokens = Some(u64::from(usage.completion_tokens));
        }
        if let Some(timings) = chunk.timings {
            answer.tokens_per_second = Some(timings.predicted_per_second);
        }
        for text in chunk.choices.iter().filter_map(|choice| choice.delta.content.as_deref()) {
            if text.is_empty() {
                continue;
            }
            answer.first_token_seconds.get_or_insert_with(|| started.elapsed().as_secs_f64());
            answer.answer.push_str(text);
            if self.is_shown {
                // a model may say anything, also what would steer a terminal
                output::verbatim(&terminal::text(text))?;
            }
        }
        Ok(())
    }

    /// Says who goes on with the answer, where it broke off elsewhere.
    fn tell_of(&self, answer: &mut Reply, comments: &[String]) -> anyhow::Result<()> {
        for comment in comments.iter().filter(|comment| comment.starts_with("continued on ")) {
            let comment = terminal::line(comment);
            if self.is_shown && self.environment.is_screen {
                output::verbatim(&self.environment.style.dim(&format!("[{comment}]")))?;
            }
            answer.continued.push(comment);
        }
        Ok(())
    }
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
    for continued in &answer.continued {
        text.push_str("\n  ");
        text.push_str(continued);
    }
    if let Some(reason) = &answer.fallback_reason {
        text.push_str("\n  not the first choice: ");
        text.push_str(reason);
    }
    text
}
