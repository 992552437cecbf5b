//! The engine on llama.cpp with a real model, as a client meets it: `brambled engine` in a
//! process of its own.
//!
//! `BRAMBLE_TEST_GGUF` names the model, a small one that chats and has the architecture
//! `llama` (made with SmolLM2-135M-Instruct). Without it the tests say so and pass, unless
//! `BRAMBLE_REQUIRE_MODELS=1`. Run with `--release`.
#![cfg(feature = "llama")]
