//! Logits of llama.cpp against those that transformers gave.
//!
//! A golden file holds `columns`, and for each case, under a prefix of its own, `ids`,
//! `argmax` and `logits` (positions by columns), and for families that read before they
//! write `encoder`: the tokens to be read. `tests/reference/` has the scripts that make them.

use std::fs::File;
use std::io::BufReader;
use std::num::NonZero;
use std::path::Path;
use std::sync::OnceLock;

use bramble_fleet::engine::Watched;
use bramble_fleet::gguf::{Header, Window};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use safetensors::SafeTensors;

/// How a sequence is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// The cache's type.
    pub(crate) kv: KvCacheType,
    /// Whether attention is one operation (`LLAMA_FLASH_ATTN_TYPE_ENABLED`), as the engine has it.
    pub(crate) is_flash: bool,
    /// So many tokens at a time.
    pub(crate) step: usize,
}

pub(crate) fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        bramble_fleet::engine::load_libraries(Path::new(concat!(env!("BRAMBLE_BUILT_LLAMA"), "/backends")));
        let mut backend = LlamaBackend::init().unwrap();
        backend.void_logs();
        backend
    })
}

/// What the reference made of one sequence of tokens.
pub(crate) struct Case {
    /// Its name in the file; empty where it is the only one.
    pub(crate) name: String,
    pub(crate) encoder: Option<Vec<i32>>,
    pub(crate) ids: Vec<i32>,
    pub(crate) argmax: Vec<i32>,
    columns: Vec<i32>,
    logits: Vec<f32>,
}

/// How far logits are from the reference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    pub(crate) mean: f64,
    pub(crate) largest: f64,
    /// The share of positions with the same likeliest token.
    pub(crate) agreement: f64,
}

impl Case {
    /// Reads a golden file.
    pub(crate) fn read(file: &[u8]) -> Vec<Self> {
        let file = SafeTensors::deserialize(file).unwrap();
        let fours = |name: &str| -> Option<Vec<[u8; 4]>> {
            Some(file.tensor(name).ok()?.data().as_chunks::<4>().0.to_vec())
        };
        let ints = |name: &str| -> Option<Vec<i32>> {
            Some(fours(name)?.into_iter().map(i32::from_le_bytes).collect())
        };
        let mut names: Vec<&str> =
            file.names().into_iter().filter_map(|name| name.strip_suffix("ids")).collect();
        names.sort_unstable();
        let case = |name: &&str| Self {
            name: name.trim_end_matches('.').to_owned(),
            encoder: ints(&format!("{name}encoder")),
            ids: ints(&format!("{name}ids")).unwrap(),
            argmax: ints(&format!("{name}argmax")).unwrap(),
            columns: ints("columns").unwrap(),
            logits: fours(&format!("{name}logits")).unwrap().into_iter().map(f32::from_le_bytes).collect(),
        };
        names.iter().map(case).collect()
    }

    /// Runs the tokens through a model.
    pub(crate) fn measure(&self, model: &Loaded, Way { kv, is_flash, step }: Way) -> Difference {
        let longest = u32::try_from(self.ids.len().max(self.encoder.as_ref().map_or(0, Vec::len))).unwrap();
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZero::new(longest))
            .with_n_batch(longest)
            .with_n_ubatch(longest)
            .with_type_k(kv)
            .with_type_v(kv)
            .with_flash_attention_policy(i32::from(is_flash))
            // more would wait for each other by spinning: beside another test, forty times as long
            .with_n_threads(1)
            .with_n_threads_batch(1);
        // a model with an encoder has no window, and is not looked at
        let mut context = match &self.encoder {
            None => {
                Context::Watched(Watched::new(&model.model, backend(), params, model.window.clone()).unwrap())
            }
            Some(encoder) => {
                let mut context = model.model.new_context(backend(), params).unwrap();
                context.encode(&mut batch(encoder, 0)).unwrap();
                Context::Plain(context)
            }
        };
        let (mut sum, mut largest, mut agreed) = (0.0, 0.0, 0);
        for (number, ids) in self.ids.chunks(step).enumerate() {
            let first = number * step;
            let mut batch = batch(ids, first);
            let context: &LlamaContext<'_> = match &mut context {
                Context::Plain(context) => {
                    context.decode(&mut batch).unwrap();
                    context
                }
                Context::Watched(context) => {
                    context.decode(&mut batch).unwrap();
                    context
                }
            };
            for at in 0..ids.len() {
                let position = first + at;
                let logits = context.get_logits_ith(i32::try_from(at).unwrap());
                let likeliest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                agreed += u32::from(likeliest == usize::try_from(self.argmax[position]).unwrap());
                let expected = self.logits.chunks_exact(self.columns.len()).nth(position).unwrap();
                for (column, expected) in self.columns.iter().zip(expected) {
                    let found = logits[usize::try_from(*column).unwrap()];
                    let difference = f64::from((found - expected).abs());
                    sum += difference;
                    largest = f64::max(largest, difference);
                }
            }
        }
        Difference {
            mean: sum / self.logits.len() as f64,
            largest,
            agreement: f64::from(agreed) / self.ids.len() as f64,
        }
    }

    /// Returns the case's beginning, so many tokens.
    pub(crate) fn cut(&self, tokens: usize) -> Self {
        Self {
            name: format!("{} of {}", tokens, self.name),
            encoder: self.encoder.clone(),
            ids: self.ids[..tokens].to_vec(),
            argmax: self.argmax[..tokens].to_vec(),
            columns: self.columns.clone(),
            logits: self.logits[..tokens * self.columns.len()].to_vec(),
        }
    }

    /// Returns how many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// A model, with the window that the engine puts into its graph.
pub(crate) struct Loaded {
    model: LlamaModel,
    window: Option<Window>,
}

pub(crate) fn load(path: &Path) -> Loaded {
    let header = Header::read(BufReader::new(File::open(path).unwrap())).unwrap();
    Loaded {
        model: LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap(),
        window: Window::read(|key| header.get(key)).unwrap(),
    }
}

enum Context<'model> {
    Plain(LlamaContext<'model>),
    Watched(Watched<'model>),
}

fn batch(ids: &[i32], first: usize) -> LlamaBatch<'_> {
    let mut batch = LlamaBatch::new(ids.len(), 1);
    for (position, id) in (first..).zip(ids) {
        batch.add(LlamaToken::new(*id), i32::try_from(position).unwrap(), &[0], true).unwrap();
    }
    batch
}
