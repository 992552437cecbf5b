use serde::{Deserialize, Serialize};

use super::begun::Progress;
use super::logprob::{LogProbs, TextLogProbs};
use super::message::{FunctionCall, ToolCall};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// It reached its limit of tokens, or the end of the context.
    Length,
    /// It calls tools, whose answers are waited for.
    ToolCalls,
}

/// Tokens that one request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, those taken from the cache included.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
}

impl Usage {
    /// Adds up both kinds.
    pub const fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, completion_tokens, total_tokens }
    }
}

/// How long one request took; llama-server's form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Tokens of the prompt that were computed, those in the cache not counted.
    pub prompt_n: u32,
    /// Milliseconds for them.
    pub prompt_ms: f64,
    /// Prompt tokens per second; 0 when none was computed.
    pub prompt_per_second: f64,
    /// Tokens of the answer.
    pub predicted_n: u32,
    /// Milliseconds for them, from the end of the prompt.
    pub predicted_ms: f64,
    /// Answer tokens per second; 0 when there is none.
    pub predicted_per_second: f64,
}

impl Timings {
    /// Works out the rates.
    pub fn new(prompt_n: u32, prompt_ms: f64, predicted_n: u32, predicted_ms: f64) -> Self {
        let rate = |n: u32, ms: f64| if n > 0 && ms > 0.0 { f64::from(n) * 1000.0 / ms } else { 0.0 };
        Self {
            prompt_n,
            prompt_ms,
            prompt_per_second: rate(prompt_n, prompt_ms),
            predicted_n,
            predicted_ms,
            predicted_per_second: rate(predicted_n, predicted_ms),
        }
    }
}

/// A whole answer in a chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    /// `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client asked for.
    pub model: String,
    /// One choice for each answer that was asked for.
    pub choices: Vec<ChatChoice>,
    /// What it used.
    pub usage: Usage,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One answer of a chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Its number, from 0.
    pub index: u32,
    /// What the model says.
    pub message: AssistantMessage,
    /// How likely its tokens were, if the client asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<LogProbs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// What the model says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// The text; none where it only calls tools.
    pub content: Option<String>,
    /// What the model thought before; the name is llama-server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A piece of an answer in a chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The same in all chunks of an answer.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client asked for.
    pub model: String,
    /// A choice for each answer that there is more of; none in the chunk that only tells the usage.
    pub choices: Vec<ChunkChoice>,
    /// What it used, in the last chunk, if the client asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How long it took, in the last chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// How far the answer is, where a router asked for it.
    #[serde(rename = "bramble_progress", default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// The answer's number, from 0.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// How likely the new tokens were, if the client asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<LogProbs>,
    /// Why it ended; in the last piece only.
    pub finish_reason: Option<FinishReason>,
}

/// What is new in an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDelta {
    /// `assistant`, in the first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what the model thinks before it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of the calls of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What is new of one call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// The call's number in the answer, from 0.
    pub index: u32,
    /// The call's own, in its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first piece.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name in the first piece, the arguments piece by piece.
    pub function: FunctionCall,
}

/// A whole text completion, or a piece of one: OpenAI gives both the same form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextReply {
    /// `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client asked for.
    pub model: String,
    /// A choice for each answer that there is more of; none in the chunk that only tells the usage.
    pub choices: Vec<TextChoice>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// How far the answer is, where a router asked for it.
    #[serde(rename = "bramble_progress", default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// One completion, or a piece of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextChoice {
    /// Its number, from 0.
    pub index: u32,
    /// The text.
    pub text: String,
    /// How likely its tokens were, if the client asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<TextLogProbs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// The models that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// One entry for each.
    pub data: Vec<ModelEntry>,
}

/// A model that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// The name to ask for.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Who brings it.
    #[serde(default)]
    pub owned_by: String,
}

impl ModelList {
    /// Lists `names`.
    pub fn new(names: impl IntoIterator<Item = String>, created: u64) -> Self {
        let entry =
            |id| ModelEntry { id, object: "model".to_owned(), created, owned_by: "bramble".to_owned() };
        Self { object: "list".to_owned(), data: names.into_iter().map(entry).collect() }
    }
}
