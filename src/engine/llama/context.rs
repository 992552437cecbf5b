//! The parameters of llama.cpp's context for one engine.

use std::num::NonZeroU32;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_sys_2 as sys;

use crate::generation::{EngineSpec, KvType};

/// Returns the most tokens that one step computes. One step is one micro-batch: a client that
/// goes away costs no more than that.
pub(super) fn batch(spec: &EngineSpec) -> u32 {
    spec.micro_batch.max(spec.slots)
}

/// Returns the parameters.
pub(super) fn params(spec: &EngineSpec) -> Result<LlamaContextParams, String> {
    let tokens = spec.context.checked_mul(spec.slots).ok_or("the context is too large")?;
    // llama.cpp's threads wait for each other by spinning: with more of them than processors an
    // answer takes fifty times as long (2 threads on a full machine: 0.4 tok/s, 1 thread: 16)
    let processors =
        std::thread::available_parallelism().map_or(u32::MAX, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let threads = i32::try_from(spec.threads.min(processors)).unwrap_or(i32::MAX);
    let kv = match spec.kv {
        KvType::F16 => KvCacheType::F16,
        KvType::Q8_0 => KvCacheType::Q8_0,
    };
    let mut params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(tokens))
        .with_n_seq_max(spec.slots)
        .with_n_batch(batch(spec))
        .with_n_ubatch(batch(spec))
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(kv)
        .with_type_v(kv)
        // layers that look back through a window hold no more than that
        .with_swa_full(false)
        .with_kv_unified(false)
        .with_no_perf(true);
    // Otherwise llama.cpp plans its compute buffer for the logits of a whole batch: 250 MiB for 512 tokens of Llama 3's
    // vocabulary.
    inner(&mut params).n_outputs_max = spec.slots;
    Ok(params)
}

/// Returns what llama.cpp takes: llama-cpp-2 has no setters for some of its fields.
pub(super) fn inner(params: &mut LlamaContextParams) -> &mut sys::llama_context_params {
    const {
        // its one field fills it, so that it begins where the whole does
        assert!(size_of::<LlamaContextParams>() == size_of::<sys::llama_context_params>());
        assert!(align_of::<LlamaContextParams>() == align_of::<sys::llama_context_params>());
    }
    #[expect(unsafe_code, reason = "llama-cpp-2 has no setters for some fields")]
    // SAFETY: the wrapper is a `llama_context_params` and nothing else (above), and borrowed for as long.
    unsafe {
        &mut *(&raw mut *params).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_set_and_nothing_else_changes() {
        let plain = LlamaContextParams::default().with_n_batch(77).with_n_ubatch(33).with_n_seq_max(5);
        let mut set = plain.clone();
        inner(&mut set).n_outputs_max = 3;
        let (plain, set) = (format!("{plain:?}"), format!("{set:?}"));
        assert!(plain.contains("n_outputs_max: 0") && set.contains("n_outputs_max: 3"), "{set}");
        assert_eq!(plain.replace("n_outputs_max: 0", "n_outputs_max: 3"), set);
    }
}
