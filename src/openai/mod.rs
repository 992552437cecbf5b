//! OpenAI's wire forms, as far as the engine and the router speak them: requests,
//! replies, chunks, errors, and the codec of event streams.
//!
//! Requests are read leniently where OpenAI's clients differ (unknown fields are
//! passed over) and strictly where a mistake would be silent (a field of the wrong type
//! is an error that names the field). This room checks shapes only: what a value means
//! and whether it is supported is for the engine to say.

mod begun;
mod embedding;
mod error;
mod logprob;
mod message;
mod reply;
mod request;
pub mod sse;
mod tokens;
mod tool;

pub use begun::{Begun, GOES_ON, Progress, WITH_PROGRESS};
pub use embedding::{Embedding, EmbeddingReply, EmbeddingRequest, EmbeddingUsage, Numbers};
pub use error::{ErrorBody, ErrorDetail};
pub use logprob::{LogProb, LogProbs, TextLogProbs, TokenLogProb};
pub use message::{FunctionCall, Message, ToolCall};
pub use reply::{
    AssistantMessage, ChatChoice, ChatChunk, ChatDelta, ChatReply, ChunkChoice, FinishReason, ModelEntry,
    ModelList, TextChoice, TextReply, Timings, ToolCallDelta, Usage,
};
pub use request::{ChatRequest, Format, Input, Malformed, Parameters, TextRequest};
pub use tokens::{DetokenizeRequest, Piece, TokenList, TokenPiece, TokenizeRequest, TokensText};
pub use tool::{Tool, ToolChoice};
