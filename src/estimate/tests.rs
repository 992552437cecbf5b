use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::catalog::Stored;
use crate::facts::{Basis, EngineBench, Installed, planned};
use crate::generation::Pace;
use crate::ids::Digest;
use crate::quant::Quant;
use crate::units::TokensPerSec;

fn serving(context: u32, slots: u32, micro_batch: u32) -> Serving {
    Serving { context, slots, threads: 4, micro_batch, load: LoadMode::Mmap, repack: false, kv: KvType::F16 }
}

fn mib(bytes: Bytes) -> u64 {
    (bytes.0 + (1 << 19)) >> 20
}

#[test]
fn files_have_the_sizes_that_were_published() {
    let llama = model(LLAMA32_1B);
    // tensor bytes of unsloth's and others' files of Llama-3.2-1B-Instruct
    let cases = [
        (Quant::F16, 2_471_764_096),
        (Quant::Q8_0, 1_313_251_456),
        (Quant::Q6K, 1_013_969_024),
        (Quant::Q5KM, 903_671_936),
        (Quant::Q5KS, 884_732_032),
        (Quant::Q5_1, 945_549_440),
        (Quant::Q5_0, 884_732_032),
        (Quant::Q4KM, 799_862_912),
        (Quant::Q4KS, 767_815_808),
        (Quant::Q4_1, 823_914_624),
        (Quant::Q4_0, 763_097_216),
        (Quant::Q3KL, 724_693_120),
        (Quant::Q3KM, 683_012_224),
        (Quant::Q3KS, 633_860_224),
    ];
    for (quant, bytes) in cases {
        let ours: u64 = candidate(&llama, quant).tensors.iter().map(|tensor| tensor.bytes).sum();
        // 128 bytes of rope factors are not in the test's model
        assert_eq!(ours + 128, bytes, "{quant}");
    }
}

#[test]
fn a_real_file_is_predicted_to_a_part_in_a_thousand() {
    // SmolLM2-135M-Instruct.Q4_1.gguf as it lies on disk
    let smol = model(SMOLLM2_135M);
    let file = candidate(&smol, Quant::Q4_1).file(&smol);
    let real = 98_362_432.0;
    assert!((file.0 as f64 / real - 1.0).abs() < 1e-3, "{}", file.0);
}

/// The buffers of a model on a CPU without layouts of its own.
fn buffers_of(model: &ModelFacts, serving: &Serving, attention: Attention) -> Buffers {
    let host = planned("pi4-8gb").unwrap();
    buffers(model, &candidate(model, Quant::Q4KM), serving, &host, attention)
}

#[test]
fn the_compute_buffer_is_what_llama_cpp_printed() {
    // context in all, slots, micro-batch, MiB printed
    let flash = [
        (LLAMA32_1B, 4096, 1, 512, 72.02),
        (LLAMA32_1B, 4096, 1, 64, 9.00),
        (LLAMA32_1B, 4096, 1, 1024, 144.04),
        (LLAMA32_1B, 65536, 1, 512, 132.02),
        (LLAMA32_1B, 4096, 4, 512, 69.02),
        (TINYLLAMA, 4096, 1, 512, 57.02),
        (LLAMA32_3B, 16384, 1, 512, 94.02),
    ];
    let plain = [
        (LLAMA32_1B, 4096, 1, 512, 290.01),
        (LLAMA32_1B, 16384, 1, 512, 1082.01),
        (LLAMA32_3B, 8192, 1, 512, 440.01),
    ];
    let cases = flash.map(|case| (Attention::Flash, case));
    for (attention, (widths, context, slots, micro_batch, printed)) in
        cases.into_iter().chain(plain.map(|case| (Attention::Plain, case)))
    {
        let serving = serving(context / slots, slots, micro_batch);
        let compute = buffers_of(&model(widths), &serving, attention).compute.as_mib();
        assert!((compute - printed).abs() < 0.006, "{compute} for {printed}");
    }
}

#[test]
fn keys_and_values_and_logits_are_what_llama_cpp_printed() {
    let llama = model(LLAMA32_1B);
    let of = |serving: Serving| buffers_of(&llama, &serving, Attention::Flash);
    assert_eq!(of(serving(4096, 1, 512)).kv, Bytes::mib(128));
    assert_eq!(of(serving(1024, 4, 512)).kv, Bytes::mib(128));
    // rounded up to 256 cells for each sequence
    assert_eq!(of(serving(1000, 4, 512)).kv, Bytes::mib(128));
    assert_eq!(of(Serving { kv: KvType::Q8_0, ..serving(4096, 1, 512) }).kv, Bytes::mib(68));
    assert!((of(serving(4096, 1, 512)).output.as_mib() - 0.49).abs() < 0.005);
    assert!((of(serving(1024, 4, 512)).output.as_mib() - 1.96).abs() < 0.005);
}

/// Gemma-2-2B, whose blocks take turns in looking back on 4096 tokens and on all.
fn gemma2_2b() -> ModelFacts {
    let widths = Widths {
        layers: 26,
        hidden: 2304,
        feed_forward: 9216,
        heads: 8,
        kv_heads: 4,
        head_dim: 256,
        vocab: 256_000,
        is_tied: true,
    };
    let mut gemma = model(widths);
    let Stored::Checkpoint { tensors } = &mut gemma.stored else { unreachable!() };
    let norms = (0..26).flat_map(|layer| {
        ["post_attention_norm", "post_ffw_norm"].map(|part| TensorShape {
            name: format!("blk.{layer}.{part}.weight"),
            shape: vec![2304],
            tensor_type: None,
        })
    });
    tensors.extend(norms.collect::<Vec<_>>());
    ModelFacts {
        architecture: "gemma2".to_owned(),
        window: Some(4096),
        windowed: (0..26).map(|block| block % 2 == 0).collect(),
        ..gemma
    }
}

#[test]
fn a_window_holds_what_it_shows_as_llama_cpp_printed() {
    let gemma = gemma2_2b();
    let printed = [
        (serving(8192, 1, 512), Attention::Flash, (650.0, 89.03, 0.98)),
        (serving(8192, 1, 512), Attention::Plain, (650.0, 187.52, 0.98)),
        (Serving { kv: KvType::Q8_0, ..serving(4096, 2, 128) }, Attention::Flash, (442.0, 21.66, 1.95)),
    ];
    for (serving, attention, (kv, compute, output)) in printed {
        let buffers = buffers_of(&gemma, &serving, attention);
        let found = [buffers.kv, buffers.compute, buffers.output].map(Bytes::as_mib);
        let is_close = |(found, printed): (f64, f64)| (found - printed).abs() < 0.006;
        assert!(found.into_iter().zip([kv, compute, output]).all(is_close), "{found:?}");
    }
}

#[test]
fn what_llama_cpp_makes_no_context_for_is_refused() {
    let blocks = Serving { kv: KvType::Q8_0, ..serving(4096, 1, 512) };
    let llama = model(LLAMA32_1B);
    assert_eq!(refusal(&llama, &serving(4096, 1, 512), Attention::Plain), None);
    assert_eq!(refusal(&llama, &blocks, Attention::Flash), None);
    assert_eq!(refusal(&llama, &blocks, Attention::Plain), Some(Refusal::PlainAttention));
    let narrow = ModelFacts { head_dim: 80, ..llama.clone() };
    let words = refusal(&narrow, &blocks, Attention::Flash).unwrap().to_string();
    assert_eq!(words, "keys and values in blocks of 32 do not fit heads of 80");
    let reader = ModelFacts { decoder_layers: Some(16), ..llama };
    assert_eq!(refusal(&reader, &blocks, Attention::Flash), Some(Refusal::EncoderBlocks));
    let two = serving(512, 2, 64);
    assert_eq!(refusal(&reader, &two, Attention::Flash), Some(Refusal::EncoderSlots { slots: 2 }));
}

#[test]
fn a_graph_that_llama_cpp_has_no_room_for_is_refused() {
    // Phi-3-medium: few tensors for its 40 blocks; as judged, one slot goes and three do not
    let widths = Widths {
        layers: 40,
        hidden: 5120,
        feed_forward: 17920,
        heads: 40,
        kv_heads: 10,
        head_dim: 128,
        vocab: 32064,
        is_tied: false,
    };
    let mut phi = ModelFacts { architecture: "phi3".to_owned(), ..model(widths) };
    let Stored::Checkpoint { tensors } = &mut phi.stored else { unreachable!() };
    tensors.retain(|tensor| !["attn_k", "attn_v", "ffn_gate"].iter().any(|part| tensor.name.contains(part)));
    for tensor in tensors.iter_mut() {
        tensor.name = tensor.name.replace("attn_q", "attn_qkv");
    }
    let of =
        |slots| refusal(&phi, &Serving { kv: KvType::Q8_0, ..serving(1000, slots, 64) }, Attention::Flash);
    assert_eq!((of(1), of(3)), (None, Some(Refusal::LongGraph)));
}

#[test]
fn repacked_buffers_are_those_of_the_published_log_of_gemma_2_2b() {
    // llama.cpp issue 19578: Q4_0 with an importance matrix, which makes the first eighth
    // of ffn_down Q4_1; mapped 1552.05, repacked 1513.16, the rest 500.32 MiB
    let gemma = gemma2_2b();
    let mut weights = candidate(&gemma, Quant::Q4_0);
    for layer in 0..3 {
        let name = format!("blk.{layer}.ffn_down.weight");
        let down = weights.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let shape = TensorShape { name, shape: down.shape.clone(), tensor_type: None };
        *down = tensor(&shape, "Q4_1");
    }
    let host = planned("pi5-8gb").unwrap();
    let serving = Serving { load: LoadMode::Read, repack: true, ..serving(4096, 1, 512) };
    let parts = footprint(&gemma, &weights, &serving, &host).parts;
    let all: u64 = weights.tensors.iter().map(|tensor| tensor.bytes).sum();
    let close = |bytes: Bytes, printed: f64| (bytes.as_mib() - printed).abs() < 0.01;
    assert!(close(Bytes(all), 1552.05), "{}", Bytes(all).as_mib());
    assert!(close(parts.repacked, 1513.16), "{}", parts.repacked.as_mib());
    assert!(close(parts.weights, 500.32), "{}", parts.weights.as_mib());
}

#[test]
fn a_real_engine_held_no_more_than_estimated_and_not_much_less() {
    // VmRSS in KiB of an engine that answered a prompt of most of its context: SmolLM2-135M
    // Q4_1 on x86_64, which does not repack that type
    let cases = [
        (1024, 1, 64, LoadMode::Mmap, 153_056),
        (1024, 1, 512, LoadMode::Mmap, 165_372),
        (4096, 1, 64, LoadMode::Mmap, 222_232),
        (1024, 1, 64, LoadMode::Read, 153_000),
        (1024, 4, 64, LoadMode::Mmap, 223_544),
    ];
    let smol = model(SMOLLM2_135M);
    let host = planned("pi4-1gb").unwrap();
    for (context, slots, micro_batch, load, real) in cases {
        let serving = Serving { load, ..serving(context, slots, micro_batch) };
        let need = footprint(&smol, &candidate(&smol, Quant::Q4_1), &serving, &host).need;
        let over = need.0 as f64 / f64::from(real * 1024) - 1.0;
        assert!((0.0..0.06).contains(&over), "{need} for {real} KiB");
    }
}

#[test]
fn figures_beyond_all_bounds_give_an_estimate_that_fits_nowhere() {
    let llama = model(LLAMA32_1B);
    let weights = candidate(&llama, Quant::Q4KM);
    let host = planned("pi5-16gb").unwrap();
    let most = u32::MAX;
    for (context, slots, micro_batch) in [(most, 1, 1 << 30), (most, 1, most), (most, most, most)] {
        for kv in [KvType::F16, KvType::Q8_0] {
            let serving = Serving { kv, ..serving(context, slots, micro_batch) };
            let need = footprint(&llama, &weights, &serving, &host).need;
            assert!(need > Bytes::gib(1 << 20), "{need} for {serving:?}");
        }
        let serving = serving(context, slots, micro_batch);
        let plain = buffers(&llama, &weights, &serving, &host, Attention::Plain).compute;
        assert!(plain > Bytes::gib(1 << 20), "{plain} for {serving:?}");
    }
}

#[test]
fn a_pi_5_that_maps_holds_weights_twice_and_one_that_reads_does_not() {
    let host = planned("pi5-8gb").unwrap();
    // MiB of the file, repacked, resident with mapping, resident with reading
    let cases = [
        (LLAMA32_1B, 763, 763, 1525, 968),
        (LLAMA32_3B, 1918, 1918, 3836, 2227),
        (LLAMA31_8B, 4685, 4402, 9088, 4685),
    ];
    for (widths, file, repacked, mapped, read) in cases {
        let model = model(widths);
        let weights = candidate(&model, Quant::Q4KM);
        let of = |load| {
            footprint(&model, &weights, &Serving { load, repack: true, ..serving(4096, 1, 512) }, &host)
        };
        let (mmap, reading) = (of(LoadMode::Mmap), of(LoadMode::Read));
        assert_eq!(mib(reading.parts.repacked), repacked);
        assert_eq!(mib(reading.parts.weights + reading.parts.repacked), read);
        assert_eq!(reading.evictable, Bytes::ZERO);
        // all of the file is mapped at first
        assert_eq!(mib(mmap.parts.weights + mmap.parts.repacked + mmap.evictable), mapped);
        let all: u64 = weights.tensors.iter().map(|tensor| tensor.bytes).sum();
        assert_eq!(mib(Bytes(all)), file);
    }
}

#[test]
fn a_pi_4_repacks_nothing_and_an_x86_with_avx2_some() {
    let llama = model(LLAMA32_1B);
    let weights = candidate(&llama, Quant::Q4KM);
    let pi4 = planned("pi4-4gb").unwrap();
    let mut x86 = pi4.clone();
    x86.board = None;
    x86.cpu.features = ["avx2".to_owned()].into();
    assert!(!is_repacking(&llama, &weights, &pi4));
    assert!(is_repacking(&llama, &weights, &x86));
    // Q6_K has no layout of its own there: neither the head nor some of ffn_down
    let parts = footprint(&llama, &weights, &Serving { repack: true, ..serving(256, 1, 64) }, &x86).parts;
    let of = |tensor_type: &str| {
        weights.tensors.iter().filter(|t| t.tensor_type == tensor_type).map(|t| t.bytes).sum::<u64>()
    };
    assert_eq!(parts.repacked, Bytes(of("Q4_K")));
    assert!(!is_repacking(&llama, &candidate(&llama, Quant::Q8_0), &x86));
}

#[test]
fn a_pi_4_answers_as_fast_as_the_published_runs_did() {
    // sensura-san/llm-bench, Llama-3.2-1B: tokens per second of a 512-token prompt and of the answer
    let cases = [
        (Quant::Q8_0, 11.7998, 2.7641),
        (Quant::Q6K, 8.9709, 3.6062),
        (Quant::Q5KM, 9.5293, 3.9835),
        (Quant::Q5_0, 9.1435, 4.0183),
        (Quant::Q4KM, 11.8575, 4.4691),
        (Quant::Q4_0, 11.3459, 4.6092),
        (Quant::Q3KM, 9.7189, 5.0999),
    ];
    let llama = model(LLAMA32_1B);
    let host = planned("pi4-4gb").unwrap();
    for (quant, prompt, answer) in cases {
        let speed = footprint(&llama, &candidate(&llama, quant), &serving(4096, 1, 512), &host).speed;
        assert_eq!(speed.basis, Basis::Calibrated);
        let near = |rate: Interval, real: f64| (rate.expected.0 / real - 1.0).abs() < 0.07;
        assert!(near(speed.answer, answer), "{quant}: {:?} for {answer}", speed.answer);
        assert!(near(speed.prompt, prompt), "{quant}: {:?} for {prompt}", speed.prompt);
    }
}

#[test]
fn published_answers_of_pi_5s_lie_in_the_interval() {
    // Ollama on 8 and 16 GB, llama.cpp on Ubuntu (RASPI5.md)
    let cases =
        [(LLAMA32_3B, 4.61), (LLAMA32_3B, 4.88), (LLAMA31_8B, 2.02), (LLAMA31_8B, 2.17), (TINYLLAMA, 11.07)];
    let host = planned("pi5-16gb").unwrap();
    for (widths, answer) in cases {
        let model = model(widths);
        let serving = Serving { load: LoadMode::Read, repack: true, ..serving(4096, 1, 512) };
        let speed = footprint(&model, &candidate(&model, Quant::Q4KM), &serving, &host).speed.answer;
        assert!(speed.low.0 <= answer && answer <= speed.high.0, "{speed:?} for {answer}");
    }
}

#[test]
fn a_figure_measured_on_the_host_beats_the_formula() {
    let llama = model(LLAMA32_1B);
    let host = planned("pi4-4gb").unwrap();
    let speed = footprint(&llama, &candidate(&llama, Quant::Q4KM), &serving(4096, 1, 512), &host).speed;
    let measured = speed.measured(TokensPerSec(speed.prompt.expected.0 / 2.0), TokensPerSec(3.16228));
    assert_eq!(
        (measured.basis, measured.answer.low, measured.pace().answer),
        (Basis::Measured, TokensPerSec(3.16228), TokensPerSec(3.2))
    );
    let ratio = measured.first_token_seconds(512) / speed.first_token_seconds(512);
    assert!((ratio - 2.0).abs() < 0.02, "{ratio}");
    assert!(speed.first_token_seconds(2000) > 4.0 * speed.first_token_seconds(500));
}

#[test]
fn a_figure_of_these_very_weights_wins_over_the_formula() {
    let llama = model(LLAMA32_1B);
    let weights =
        |recipe: &[u8]| Candidate { recipe: Some(Digest::of(recipe)), ..candidate(&llama, Quant::Q4KM) };
    let mut host = planned("pi4-4gb").unwrap();
    let of = |recipe: &[u8], host: &HostFacts| {
        footprint(&llama, &weights(recipe), &serving(4096, 1, 512), host).speed
    };
    let before = of(b"this", &host);
    let installed = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{},"memory":0,"drift":[],
        "bench":{"format":1,"memory":null,"storage":null,"notes":[],"engines":[]}}"#;
    let mut installed: Installed = serde_json::from_str(installed).unwrap();
    installed.bench.as_mut().unwrap().engines.push(EngineBench {
        model: "chat".parse().unwrap(),
        recipe: Digest::of(b"this"),
        threads: 4,
        repack: false,
        prompt_tokens: 54,
        prompt: TokensPerSec(6.0),
        answer_tokens: 20,
        answer: TokensPerSec(4.0),
        work: work(&llama, &weights(b"this"), &serving(4096, 1, 512), &host.cpu),
        text: None,
    });
    host.installed = Some(installed);
    // measured 64 tokens deep, which is what the figure is for
    let measured = of(b"this", &host);
    assert_eq!((measured.basis, measured.prompt.expected), (Basis::Measured, TokensPerSec(6.0)));
    assert!((measured.answer.expected.0 - 4.0).abs() < 1e-9, "{measured:?}");
    // other weights are calibrated by it
    let other = of(b"other", &host);
    assert_eq!(other.basis, Basis::Calibrated);
    assert!((other.answer.expected.0 - 4.0).abs() < 0.01, "{other:?}");
    assert!(other.answer.low < other.answer.expected);
    assert!((before.answer.expected.0 - 4.0).abs() > 0.1, "{before:?}");
}

#[test]
fn whatever_a_host_says_that_it_was_measured_at_its_pace_is_a_number() {
    let llama = model(LLAMA32_1B);
    let weights = Candidate { recipe: Some(Digest::of(b"this")), ..candidate(&llama, Quant::Q4KM) };
    let serving = Serving { repack: true, ..serving(4096, 1, 512) };
    let mut host = planned("pi5-8gb").unwrap();
    let before = footprint(&llama, &weights, &serving, &host).speed;
    for figure in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320, 1.7e308] {
        let installed = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{},"memory":0,"drift":[],
            "bench":{"format":1,"memory":null,"storage":{"read":1.0,"bytes":1},"notes":[],"engines":[]}}"#;
        let mut installed: Installed = serde_json::from_str(installed).unwrap();
        let bench = installed.bench.as_mut().unwrap();
        bench.storage.as_mut().unwrap().read.0 = figure;
        bench.engines.push(EngineBench {
            model: "chat".parse().unwrap(),
            recipe: Digest::of(b"this"),
            threads: 4,
            repack: true,
            prompt_tokens: u32::MAX,
            prompt: TokensPerSec(figure),
            answer_tokens: u32::MAX,
            answer: TokensPerSec(figure),
            work: work(&llama, &weights, &serving, &host.cpu),
            text: None,
        });
        host.installed = Some(installed);
        let speed = footprint(&llama, &weights, &serving, &host).speed;
        assert_eq!(speed, before, "{figure}");
        // and should such a figure come from elsewhere
        let mut wild = speed;
        (wild.load_seconds, wild.prompt.expected.0, wild.answer.expected.0) = (figure, figure, figure);
        for pace in [speed.pace(), wild.pace()] {
            let text = serde_json::to_string(&pace).unwrap();
            assert!(serde_json::from_str::<Pace>(&text).is_ok(), "{text}");
            assert!(pace.prompt.0 > 0.0 && pace.answer.0 > 0.0 && pace.load_seconds >= 0.0, "{text}");
        }
    }
}

#[test]
fn answers_slow_down_with_depth_and_with_company() {
    let llama = model(LLAMA32_1B);
    let host = planned("pi4-4gb").unwrap();
    let speed = footprint(&llama, &candidate(&llama, Quant::Q4KM), &serving(4096, 1, 512), &host).speed;
    let milliseconds = |depth| 1e3 / speed.answer_at(depth).expected.0;
    // sensura-san/llm-bench: 14.7 ms a token at 512 more
    let more = milliseconds(576) - milliseconds(64);
    assert!((more - 12.0).abs() < 3.0, "{more}");
    let shared = speed.shared(2);
    assert!((shared.answer.expected.0 * 2.0 - speed.answer.expected.0).abs() < 1e-9);
    assert!((shared.first_token_seconds(512) / speed.first_token_seconds(512) - 2.0).abs() < 1e-9);
    assert_eq!(speed.shared(1), speed);
}

#[test]
fn of_a_mixture_only_the_experts_that_are_asked_are_read() {
    let mut mixture = model(LLAMA32_1B);
    let mut weights = candidate(&mixture, Quant::Q4_0);
    let experts = TensorShape {
        name: "blk.0.ffn_up_exps.weight".to_owned(),
        shape: vec![2048, 1024, 64],
        tensor_type: None,
    };
    weights.tensors.push(tensor(&experts, "Q4_0"));
    let host = planned("pi4-8gb").unwrap();
    let bytes = |model: &ModelFacts| work(model, &weights, &serving(1024, 1, 64), &host.cpu).bytes();
    let all = bytes(&mixture);
    mixture.experts_used = Some(8);
    let used = bytes(&mixture);
    let expert_bytes = weights.tensors.last().unwrap().bytes as f64;
    assert!((all - used - expert_bytes * 56.0 / 64.0).abs() < 1.0, "{all} {used}");
}

#[test]
fn tables_of_rows_are_not_read_and_an_encoder_reads_the_prompt_alone() {
    let llama = model(LLAMA32_1B);
    let host = planned("pi4-8gb").unwrap();
    let count = |model: &ModelFacts, weights: &Candidate| {
        let work = work(model, weights, &serving(1024, 1, 64), &host.cpu);
        (work.bytes(), work.prompt.values().sum::<f64>())
    };
    let plain = candidate(&llama, Quant::Q4_0);
    let mut with_tables = plain.clone();
    for name in ["per_layer_token_embd.weight", "position_embd.weight"] {
        let shape = TensorShape { name: name.to_owned(), shape: vec![2048, 1024], tensor_type: None };
        with_tables.tensors.push(tensor(&shape, "F16"));
    }
    assert_eq!(count(&llama, &with_tables), count(&llama, &plain));

    let mut both = llama.clone();
    both.decoder_layers = Some(16);
    let side = |side: &str| {
        let mut weights = plain.clone();
        for tensor in &mut weights.tensors {
            tensor.name = format!("{side}.{}", tensor.name);
        }
        count(&both, &weights)
    };
    assert_eq!((side("enc").0, side("dec").1), (0.0, 0.0));
    assert!(side("dec").0 > 0.0 && side("enc").1 > 0.0);
}

#[test]
fn small_models_lose_more_as_qwen2s_perplexities_do() {
    // README of Qwen2-1.5B-Instruct-GGUF: parameters; perplexities of F16, Q5_0, Q4_0
    let sizes: [(u64, f64, f64, f64); 3] = [
        (494_000_000, 15.11, 15.40, 16.28),
        (1_540_000_000, 10.43, 10.56, 10.79),
        (7_600_000_000, 7.93, 7.98, 8.19),
    ];
    let lost = |size: usize, of: fn(&(u64, f64, f64, f64)) -> f64| (of(&sizes[size]) / sizes[size].1).ln();
    let expected = |size: usize| {
        let mut qwen = model(LLAMA32_3B);
        qwen.parameters = sizes[size].0;
        loss_of(&qwen, Quant::Q4_0, None).divergence
    };
    for (size, least, most) in [(0, 2.2, 3.1), (1, 1.0, 2.0)] {
        let ours = expected(size) / expected(2);
        let [five, four] = [|row: &(u64, f64, f64, f64)| row.2, |row: &(u64, f64, f64, f64)| row.3]
            .map(|of| lost(size, of) / lost(2, of));
        let between = f64::midpoint(five, four);
        assert!((least..most).contains(&between), "{between}");
        assert!((ours / between - 1.0).abs() < 0.2, "{ours} for {between}");
    }
    // what nothing is known of says so
    let of = |parameters| {
        let mut tiny = model(LLAMA32_3B);
        tiny.parameters = parameters;
        loss_of(&tiny, Quant::Q8_0, None).basis
    };
    assert_eq!(
        (of(8_030_000_000), of(1_500_000_000), of(135_000_000)),
        (LossBasis::Mix, LossBasis::Size, LossBasis::Derived)
    );
}

#[test]
fn losses_are_ranked_by_the_types_that_tensors_really_get() {
    let (wide, narrow) = (model(LLAMA32_3B), model(SMOLLM2_135M));
    let loss = |model: &ModelFacts, quant| candidate(model, quant).loss(model).unwrap();
    // wide rows: the measured figures themselves
    let known = model(LLAMA31_8B);
    assert_eq!(loss(&known, Quant::Q4KM), Loss { divergence: 0.031_273, basis: LossBasis::Mix });
    assert_eq!(loss(&wide, Quant::Q2K).basis, LossBasis::Size);
    // narrow rows fall back to types of 5 bits: better than the name says
    let fallen = loss(&narrow, Quant::Q4KM);
    assert_eq!(fallen.basis, LossBasis::Types);
    let by_name = |quant| loss_of(&narrow, quant, None).divergence;
    assert!(fallen.divergence < by_name(Quant::Q4KM), "{fallen:?}");
    // "Q3_K_M" there is mostly Q4_0, and so no worse than Q4_0 by what the names say
    assert!(loss(&narrow, Quant::Q3KM).divergence < by_name(Quant::Q3KM));
    // small models suffer more
    assert!(loss(&narrow, Quant::Q8_0).divergence > loss(&wide, Quant::Q8_0).divergence);
    assert_eq!(loss_of(&wide, Quant::Iq4Xs, None).basis, LossBasis::Derived);
    // Q4_1 and Q4_0 are closer than their error
    assert!(loss(&wide, Quant::Q4_0).is_within(&loss(&wide, Quant::Q4_1)));
    assert!(!loss(&wide, Quant::Q4_0).is_within(&loss(&wide, Quant::Q4KS)));
}

#[test]
fn swap_is_no_room_and_our_own_memory_is() {
    let mut host = host("pi4-1gb", Bytes::mib(220));
    let before = room(&host);
    host.memory.swap = Bytes::gib(8);
    host.memory.zram = Bytes::gib(8);
    assert_eq!(room(&host), before);
    // 909 MiB: 45 for the margin, 10 for the router
    assert_eq!(mib(before), 165);
    let installed = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{},"memory":104857600,"drift":[]}"#;
    host.installed = Some(serde_json::from_str(installed).unwrap());
    assert_eq!(mib(room(&host)), 265);
    // nor can it be more than there is
    host.installed.as_mut().unwrap().memory = Bytes::gib(64);
    assert!(room(&host) < host.memory.total);
}

proptest! {
    #[test]
    fn an_estimate_grows_with_context_slots_and_batch(
        context in 256u32..32768, more in 1u32..8192, slots in 1u32..4, pi5 in any::<bool>(), repack in any::<bool>()
    ) {
        let host = planned(if pi5 { "pi5-8gb" } else { "pi4-8gb" }).unwrap();
        let llama = model(LLAMA32_1B);
        let weights = candidate(&llama, Quant::Q4KM);
        let of = |context, slots, micro_batch| {
            footprint(&llama, &weights, &Serving { repack, ..serving(context, slots, micro_batch) }, &host)
        };
        let base = of(context, slots, 256);
        prop_assert!(of(context + more, slots, 256).need >= base.need);
        prop_assert!(of(context + 256, slots, 256).need > base.need);
        prop_assert!(of(context, slots + 1, 256).need > base.need);
        prop_assert!(of(context, slots, 512).need > base.need);
        prop_assert!(base.speed.answer.low <= base.speed.answer.expected);
        prop_assert!(base.speed.answer.expected <= base.speed.answer.high);
    }
}
