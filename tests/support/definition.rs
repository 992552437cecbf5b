//! A definition of one engine, for tests that need one and start none.

use bramble_fleet::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, KvType, LoadMode, Pace, Program, Weights,
};
use bramble_fleet::ids::Digest;
use bramble_fleet::units::{Bytes, TokensPerSec};

/// Serves `chat` from the blob `weights` of `bytes` bytes, by `program`.
pub(crate) fn definition(program: Digest, weights: Digest, bytes: u64) -> Definition {
    let engine = EngineSpec {
        model: "chat".parse().unwrap(),
        weights: Weights {
            recipe: Digest::of(b"recipe"),
            digest: Some(weights),
            bytes: Bytes(bytes),
            quant: None,
            architecture: "llama".to_owned(),
        },
        context: 512,
        slots: 1,
        threads: 1,
        micro_batch: 64,
        load: LoadMode::Mmap,
        repack: false,
        kv: KvType::F16,
        need: Bytes::ZERO,
        keep_prompts: false,
        pace: Pace {
            prompt: TokensPerSec(1.0),
            answer: TokensPerSec(1.0),
            load_seconds: 1.0,
            is_guess: false,
        },
    };
    Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "kitchen".parse().unwrap(),
        program: Program { digest: program, version: "0.1.0".to_owned(), gpu: None },
        engines: vec![engine],
        door: DoorSpec { port: 8443, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
    }
}
