//! What llama.cpp says that it allocates, asked in a process of its own: it may abort, and
//! what it holds ends with it.
//!
//! The process is the test program itself, which finds its orders in the environment.
//! Nothing large is allocated: loading is called off before the first tensor is read, when the
//! buffers are made and nothing has touched them; contexts are made for a model that has no
//! data (`no_alloc`).
#![expect(unsafe_code, reason = "the safe wrapper lacks half of the parameters")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use llama_cpp_sys_2 as sys;
use serde::{Deserialize, Serialize};

/// Where the child finds its [`Order`].
const ORDER: &str = "BRAMBLE_TEST_JUDGE";
/// What stands before the child's answer, since llama.cpp prints, too.
const ANSWER: &str = "judged: ";

/// What a child is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    gguf: PathBuf,
    loads: Vec<Load>,
    contexts: Vec<Context>,
}

/// One way to load weights.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) mmap: bool,
    pub(crate) repack: bool,
}

/// One context.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Context {
    /// Tokens for each slot.
    pub(crate) tokens: u32,
    pub(crate) slots: u32,
    pub(crate) micro_batch: u32,
    pub(crate) has_blocks: bool,
    pub(crate) is_flash: bool,
}

/// Weights, in MiB to two digits, as llama.cpp prints them.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) plain: f64,
    pub(crate) repacked: f64,
}

/// A context's buffers, in MiB to two digits, as llama.cpp prints them.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) kv: f64,
    pub(crate) compute: f64,
    pub(crate) output: f64,
}

/// What llama.cpp says of a model.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) loads: Vec<Loaded>,
    /// None where llama.cpp makes no such context, or dies of it.
    pub(crate) contexts: Vec<Option<Made>>,
}

/// Asks llama.cpp what it allocates for the model in `gguf`.
pub(crate) fn ask(gguf: &Path, loads: &[Load], contexts: &[Context]) -> Verdict {
    let mut verdict = Verdict { loads: Vec::new(), contexts: Vec::new() };
    let mut order = Order { gguf: gguf.to_owned(), loads: loads.to_vec(), contexts: contexts.to_vec() };
    loop {
        let output = Command::new(std::env::current_exe().unwrap())
            .env(ORDER, serde_json::to_string(&order).unwrap())
            // it shall die without a debugger's help
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        for answer in text.lines().filter_map(|line| line.strip_prefix(ANSWER)) {
            match serde_json::from_str(answer).unwrap() {
                Answer::Loaded(loaded) => verdict.loads.push(loaded),
                Answer::Made(made) => verdict.contexts.push(made),
            }
        }
        if output.status.success() {
            return verdict;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_loaded = verdict.loads.len() == loads.len() && verdict.contexts.len() < contexts.len();
        assert!(is_loaded, "{}: {}: {errors}", gguf.display(), output.status);
        verdict.contexts.push(None);
        order.loads.clear();
        order.contexts = contexts[verdict.contexts.len()..].to_vec();
    }
}

/// What a child says, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Loaded(Loaded),
    Made(Option<Made>),
}

fn say(answer: &Answer) {
    println!("{ANSWER}{}", serde_json::to_string(answer).unwrap());
}

/// Answers if this process was started to do so.
pub(crate) fn answer_if_asked() -> bool {
    let Ok(order) = std::env::var(ORDER) else { return false };
    let order: Order = serde_json::from_str(&order).unwrap();
    bramble_fleet::engine::load_libraries(Path::new(concat!(env!("BRAMBLE_BUILT_LLAMA"), "/backends")));
    // SAFETY: the callback lives as long as the program and takes no user data.
    unsafe {
        sys::llama_backend_init();
        sys::llama_log_set(Some(keep), std::ptr::null_mut());
    }
    for load in &order.loads {
        say(&Answer::Loaded(weights(&order.gguf, *load)));
    }
    make_contexts(&order.gguf, &order.contexts);
    true
}

static LOG: Mutex<String> = Mutex::new(String::new());

unsafe extern "C" fn keep(_: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    // SAFETY: llama.cpp gives texts that end with a null and live for the call.
    let text = unsafe { CStr::from_ptr(text) };
    LOG.lock().unwrap().push_str(&text.to_string_lossy());
}

/// Returns the log since it was last taken.
fn log() -> String {
    std::mem::take(&mut *LOG.lock().unwrap())
}

unsafe extern "C" fn call_off(_: f32, _: *mut c_void) -> bool {
    false
}

fn model(gguf: &Path, change: impl FnOnce(&mut sys::llama_model_params)) -> *mut sys::llama_model {
    let path = CString::new(gguf.as_os_str().as_bytes()).unwrap();
    // SAFETY: takes no arguments and returns a plain value.
    let mut params = unsafe { sys::llama_model_default_params() };
    change(&mut params);
    // SAFETY: the path ends with a null; the parameters hold no pointers of ours but a function.
    unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) }
}

fn weights(gguf: &Path, load: Load) -> Loaded {
    let loaded = model(gguf, |params| {
        params.load_mode = if load.mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
        params.use_extra_bufts = load.repack;
        params.progress_callback = Some(call_off);
    });
    let log = log();
    assert!(loaded.is_null(), "loading is called off");
    assert!(log.contains("model buffer size"), "{log}");
    let sizes = |word: &str| -> f64 {
        let lines = log.lines().filter(|line| line.contains("model buffer size"));
        let named = lines.filter(|line| line.contains("REPACK") == (word == "REPACK"));
        named.map(|line| mib_after(line, "model buffer size")).sum()
    };
    Loaded { plain: sizes("CPU"), repacked: sizes("REPACK") }
}

fn make_contexts(gguf: &Path, contexts: &[Context]) {
    if contexts.is_empty() {
        return;
    }
    let model = model(gguf, |params| {
        params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        params.no_alloc = true;
    });
    assert!(!model.is_null(), "llama.cpp does not take the model: {}", log());
    for context in contexts {
        say(&Answer::Made(make(model, *context)));
    }
}

/// Makes a context as the engine does (`src/engine/llama/context.rs`).
fn make(model: *mut sys::llama_model, context: Context) -> Option<Made> {
    let batch = context.micro_batch.max(context.slots);
    let kv = if context.has_blocks { sys::GGML_TYPE_Q8_0 } else { sys::GGML_TYPE_F16 };
    // SAFETY: takes no arguments and returns a plain value.
    let mut params = unsafe { sys::llama_context_default_params() };
    params.n_ctx = context.tokens * context.slots;
    params.n_seq_max = context.slots;
    params.n_batch = batch;
    params.n_ubatch = batch;
    params.n_outputs_max = context.slots;
    params.type_k = kv;
    params.type_v = kv;
    params.swa_full = false;
    params.kv_unified = false;
    params.flash_attn_type =
        if context.is_flash { sys::LLAMA_FLASH_ATTN_TYPE_AUTO } else { sys::LLAMA_FLASH_ATTN_TYPE_DISABLED };
    log();
    // SAFETY: the model is one that was loaded and not freed; the parameters hold no pointers.
    let made = unsafe { sys::llama_init_from_model(model, params) };
    let log = log();
    if made.is_null() {
        return None;
    }
    // SAFETY: it was made above and nobody else has it.
    unsafe { sys::llama_free(made) };
    let all = |word: &str| -> f64 {
        log.lines().filter(|line| line.contains(word)).map(|line| mib_after(line, word)).sum()
    };
    // of keys and values without memory, the buffer has none either, but their size is told
    let kv = log.lines().filter(|line| line.contains(" cells, ")).map(|line| mib_after(line, "size")).sum();
    Some(Made { kv, compute: all("compute buffer size"), output: all("output buffer size") })
}

/// Reads the number of `… WORD = 12.34 MiB`.
fn mib_after(line: &str, word: &str) -> f64 {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("no {word} in {line}")).1;
    rest.trim_start_matches([' ', '=']).split_whitespace().next().unwrap().parse().unwrap()
}
