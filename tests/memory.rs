//! The memory that a plan counts, beside what llama.cpp says that it allocates: for the shapes
//! of published models of every family, in several quants, contexts, slots and ways to compute.
//!
//! - `FAMILY::slice`: the smallest model, in a few ways. For every run.
//! - `FAMILY::all` (ignored): every model, in every way. `scripts/figures planning` runs it.
//!
//! Each prints how many buffers it compared and the largest differences. A buffer may differ
//! by 16 MiB or by 2 %, whichever is more.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "the test starts itself a second time")]

use std::collections::BTreeSet;

use bramble_fleet::catalog::{ModelFacts, Stored};
use bramble_fleet::estimate::{self, Attention, Buffers, Candidate, Refusal, Serving, Tensor};
use bramble_fleet::facts::{HostFacts, planned};
use bramble_fleet::generation::{KvType, LoadMode};
use bramble_fleet::gguf::Header;
use bramble_fleet::ids::Digest;
use bramble_fleet::quant::Quant;
use bramble_fleet::source::{Pinned, PinnedFile};
use bramble_fleet::units::Bytes;
use judge::{Context, Load};
use libtest_mimic::{Arguments, Trial};
use published::{ALL, Published};

#[path = "support/judge.rs"]
mod judge;
#[path = "support/published.rs"]
mod published;

/// How weights are loaded where it makes no difference.
const READ: Load = Load { mmap: false, repack: true };
/// What a buffer may differ by.
const TOLERANCE: (f64, f64) = (16.0, 0.02);
/// Half of the last digit that llama.cpp prints, and of ours.
const ROUNDING: f64 = 0.011;

fn main() {
    if judge::answer_if_asked() {
        return;
    }
    let families: BTreeSet<&str> = ALL.iter().map(|model| model.architecture).collect();
    let mut trials = Vec::new();
    for family in families {
        let models: Vec<Published> =
            ALL.iter().copied().filter(|model| model.architecture == family).collect();
        let first = vec![models[0]];
        trials.push(Trial::test(format!("{family}::slice"), move || {
            compare(family, &first, &[Quant::Q4_0, Quant::Q4KM], &slice());
            Ok(())
        }));
        let quants = [Quant::F16, Quant::Q8_0, Quant::Q5KM, Quant::Q4KM, Quant::Q4_0, Quant::Q2K];
        let all = Trial::test(format!("{family}::all"), move || {
            compare(family, &models, &quants, &contexts());
            Ok(())
        });
        trials.push(all.with_ignored_flag(true));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn context(tokens: u32, slots: u32, micro_batch: u32, has_blocks: bool, is_flash: bool) -> Context {
    Context { tokens, slots, micro_batch, has_blocks, is_flash }
}

fn slice() -> Vec<Context> {
    vec![
        context(2048, 1, 512, false, true),
        context(1000, 3, 64, true, true),
        context(8192, 1, 512, false, false),
        context(4096, 1, 128, true, false),
    ]
}

fn contexts() -> Vec<Context> {
    let mut all = slice();
    for (tokens, slots) in [(256, 1), (4096, 1), (4096, 4), (16384, 1), (32768, 2)] {
        for micro_batch in [64, 256, 512] {
            all.push(context(tokens, slots, micro_batch, false, true));
        }
        all.push(context(tokens, slots, 512, true, true));
        all.push(context(tokens, slots, 512, false, false));
    }
    // fewer tokens at once than slots, and slots that do not divide them
    all.push(context(512, 8, 4, false, true));
    all.push(context(512, 7, 64, false, true));
    all
}

/// This machine, as far as layouts of weights are concerned.
fn host() -> HostFacts {
    let mut host = planned("pi4-8gb").unwrap();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    host.cpu.features =
        flags.unwrap().split_once(':').unwrap().1.split_whitespace().map(str::to_owned).collect();
    host
}

/// A model as a plan sees it.
struct Planned {
    facts: ModelFacts,
    candidate: Candidate,
}

impl Planned {
    fn read(header: &[u8], bytes: u64) -> Self {
        let sha256 = Digest::of(b"a hole");
        let file = PinnedFile { path: "model.gguf".to_owned(), bytes: Bytes(bytes), sha256 };
        let source = Pinned { uri: "file:model.gguf".to_owned(), files: vec![file], license: None };
        let facts = ModelFacts::from_gguf(source, header).unwrap();
        let Stored::Gguf { .. } = &facts.stored else { panic!("a GGUF") };
        let tensors = Header::read(header).unwrap().tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            shape: tensor.shape,
            tensor_type: tensor.tensor_type.name().to_owned(),
            bytes: tensor.bytes,
        });
        let candidate = Candidate { quant: None, tensors: tensors.collect(), recipe: None };
        Self { facts, candidate }
    }

    fn buffers(&self, context: Context, load: Load, host: &HostFacts) -> Buffers {
        let attention = attention(context);
        estimate::buffers(&self.facts, &self.candidate, &serving(context, load), host, attention)
    }
}

fn serving(context: Context, load: Load) -> Serving {
    Serving {
        context: context.tokens,
        slots: context.slots,
        threads: 4,
        micro_batch: context.micro_batch,
        load: if load.mmap { LoadMode::Mmap } else { LoadMode::Read },
        repack: load.repack,
        kv: if context.has_blocks { KvType::Q8_0 } else { KvType::F16 },
    }
}

fn attention(context: Context) -> Attention {
    if context.is_flash { Attention::Flash } else { Attention::Plain }
}

/// What was compared.
#[derive(Default)]
struct Compared {
    cases: usize,
    buffers: usize,
    worst_mib: f64,
    worst_part: f64,
    failures: Vec<String>,
}

impl Compared {
    fn hold(&mut self, what: &str, planned: Bytes, reported: f64) {
        let planned = planned.as_mib();
        let difference = (planned - reported).abs();
        let difference = if difference <= ROUNDING { 0.0 } else { difference };
        let part = if reported > 0.0 { difference / reported } else { 0.0 };
        self.buffers += 1;
        self.worst_mib = self.worst_mib.max(difference);
        self.worst_part = self.worst_part.max(part);
        if difference > TOLERANCE.0.max(TOLERANCE.1 * reported) {
            self.failures.push(format!("{what}: planned {planned:.2} MiB, llama.cpp says {reported:.2}"));
        } else if difference > 0.0 {
            println!("{what}: planned {planned:.2} MiB, llama.cpp says {reported:.2}");
        }
    }
}

fn compare(family: &str, models: &[Published], quants: &[Quant], contexts: &[Context]) {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let mut compared = Compared::default();
    for model in models {
        for (index, quant) in quants.iter().enumerate() {
            let path = folder.path().join("model.gguf");
            let (header, bytes) = model.write(&path, *quant);
            let planned = Planned::read(&header, bytes);
            // a mapped file is read ahead, and its hole would fill the page cache; and what is
            // more than a machine's memory it does not even promise
            let (is_small, is_promised) = (bytes < 1 << 30, bytes < 14 << 30);
            let loads: Vec<Load> = [(false, true), (false, false), (true, true), (true, false)]
                .map(|(mmap, repack)| Load { mmap, repack })
                .into_iter()
                .filter(|load| if load.mmap { is_small } else { is_promised })
                .collect();
            // contexts do not depend on the types of weights
            let contexts = if index == 0 { contexts } else { &contexts[..0] };
            let verdict = judge::ask(&path, &loads, contexts);
            let name = format!("{} {quant}", model.name);
            for (load, loaded) in loads.iter().zip(&verdict.loads) {
                let buffers = planned.buffers(slice()[0], *load, &host);
                let what = format!("{name} {load:?}");
                compared.cases += 1;
                compared.hold(&format!("{what} weights"), buffers.weights, loaded.plain);
                compared.hold(&format!("{what} repacked"), buffers.repacked, loaded.repacked);
            }
            for (context, made) in contexts.iter().zip(&verdict.contexts) {
                let what = format!("{name} {context:?}");
                let serving = serving(*context, READ);
                let refusal = estimate::refusal(&planned.facts, &serving, attention(*context));
                if refusal == Some(Refusal::EncoderBlocks) {
                    continue;
                }
                compared.cases += 1;
                let Some(made) = made else {
                    assert!(refusal.is_some(), "{what}: llama.cpp makes no context, and a plan would");
                    continue;
                };
                assert!(refusal.is_none(), "{what}: {}, and llama.cpp makes it", refusal.unwrap());
                let buffers = planned.buffers(*context, READ, &host);
                compared.hold(&format!("{what} kv"), buffers.kv, made.kv);
                compared.hold(&format!("{what} compute"), buffers.compute, made.compute);
                compared.hold(&format!("{what} output"), buffers.output, made.output);
            }
        }
    }
    println!(
        "{family}: {} cases, {} buffers, at most {:.2} MiB and {:.2} % off",
        compared.cases,
        compared.buffers,
        compared.worst_mib,
        100.0 * compared.worst_part
    );
    assert!(compared.failures.is_empty(), "{:#?}", compared.failures);
}
