//! Real vocabularies, converted, against what others make of the same texts.
//!
//! Needs the folders that `tests/reference/vocabularies.py` makes, named by
//! `BRAMBLE_TEST_VOCABULARIES`; without it, tests say that they were skipped, and fail if
//! `BRAMBLE_REQUIRE_VOCABULARIES` is 1.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "tests are told by the environment where the files are")]

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};

use bramble_fleet::convert::{TokenizerFiles, tokenizer_keys};
use bramble_fleet::gguf::{Value, Writer};

/// Each vocabulary with llama.cpp's names for its kind and for how it cuts texts.
const VOCABULARIES: [(&str, &str, &str); 17] = [
    ("bloom-kind", "gpt2", "bloom"),
    ("gpt-2", "gpt2", "gpt-2"),
    ("gpt-2-first-files", "gpt2", "gpt-2"),
    ("gpt4o", "gpt2", "gpt-4o"),
    ("gemma3", "llama", "default"),
    ("llama-bpe", "gpt2", "llama-bpe"),
    ("llama-spm", "llama", "default"),
    ("llama2", "llama", "default"),
    ("llama3_1", "gpt2", "llama-bpe"),
    ("mistral-v1", "llama", "default"),
    ("mistral-v3", "llama", "default"),
    ("phi-3", "llama", "default"),
    ("phi-3-json", "llama", "default"),
    ("phi-4-mini-kind", "gpt2", "gpt-4o"),
    ("qwen2", "gpt2", "qwen2"),
    ("qwen3", "gpt2", "qwen2"),
    ("t5-kind", "t5", "default"),
];

/// Returns the folder of vocabularies, or says that it is not there.
fn vocabularies() -> Option<PathBuf> {
    let found = std::env::var_os("BRAMBLE_TEST_VOCABULARIES").map(PathBuf::from);
    if found.is_none() {
        let is_required = std::env::var("BRAMBLE_REQUIRE_VOCABULARIES").is_ok_and(|value| value == "1");
        assert!(!is_required, "BRAMBLE_TEST_VOCABULARIES names no vocabularies, and they are required");
        println!("skipped: BRAMBLE_TEST_VOCABULARIES names no vocabularies");
    }
    found
}

/// Returns those that are there, which must be more than a handful.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Converts the vocabulary in a folder to a GGUF without weights, beside its files.
fn convert(folder: &Path) -> (PathBuf, Vec<(String, Value)>) {
    let files = TokenizerFiles::read(folder).unwrap();
    let keys = tokenizer_keys(&json(&folder.join("config.json")), &files);
    let keys = keys.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all = vec![("general.architecture".to_owned(), Value::from("llama"))];
    all.extend(keys.clone());
    let path = folder.join("vocabulary.gguf");
    // tests run at the same time, in a process of their own or in threads of one
    let me = std::thread::current().id();
    let partial = folder.join(format!("vocabulary.{}.{me:?}.partial", std::process::id()));
    Writer::start(File::create(&partial).unwrap(), &all, &[]).unwrap().finish().unwrap();
    fs::rename(partial, &path).unwrap();
    (path, keys)
}

#[test]
fn each_vocabulary_is_known_for_what_it_is() {
    let Some(root) = vocabularies() else { return };
    for folder in folders(&root) {
        let (_, keys) = convert(&folder);
        let text = |key: &str| {
            let found = keys.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_str());
            found.unwrap_or("nothing").to_owned()
        };
        let found = (text("tokenizer.ggml.model"), text("tokenizer.ggml.pre"));
        println!("{}: {found:?}", folder.display());
        if let Some((_, model, pre)) = VOCABULARIES.iter().find(|(known, ..)| *known == name(&folder)) {
            assert_eq!(found, ((*model).to_owned(), (*pre).to_owned()), "{}", folder.display());
        }
        let is_phi = name(&folder).starts_with("phi-3");
        assert_eq!(text("general.name").to_lowercase().contains("phi-3"), is_phi, "{}", folder.display());
    }
}

#[cfg(feature = "llama")]
mod llama {
    use std::sync::OnceLock;

    use bramble_fleet::engine::Blanks;
    use bramble_fleet::gguf::TAKE_BLANKS;
    use llama_cpp_2::llama_backend::LlamaBackend;
    use llama_cpp_2::model::LlamaModel;
    use llama_cpp_2::model::params::LlamaModelParams;

    use super::*;

    fn backend() -> &'static LlamaBackend {
        static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
        BACKEND.get_or_init(|| {
            bramble_fleet::engine::load_libraries(Path::new(concat!(
                env!("BRAMBLE_BUILT_LLAMA"),
                "/backends"
            )));
            let mut backend = LlamaBackend::init().unwrap();
            backend.void_logs();
            backend
        })
    }

    /// How `gpt-4o` cuts texts: as tokenizer.json says, and as llama.cpp does instead, which takes
    /// letters outside ASCII for both cases at once, and marks for no letters.
    const GPT_4O: [&str; 2] = [
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        concat!(
            r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ];

    /// Returns whether a text is one on which llama.cpp is known to differ.
    ///
    /// Runs of spaces that Gemma added as tokens are tokens for it as spaces, not where a text
    /// has the sign itself that SentencePiece writes for a space. Behind Phi-3's markers it
    /// passes over ASCII's white space only. Any vocabulary's `</s>` ends a text for it, also
    /// where Qwen's has it as a piece that no text is joined to. Gemma's marker of images is one
    /// past the rows of its models without eyes, which have no token for it.
    fn is_known(name: &str, pre: &str, text: &str) -> bool {
        match name {
            "gemma3" => ["\u{2581}\u{2581}", " \u{2581}", "\u{2581} ", "<image_soft_token>"]
                .iter()
                .any(|part| text.contains(part)),
            "phi-3-json" => text.contains(">\u{a0}"),
            "qwen2" | "qwen3" => text.contains("</s>"),
            "t5-kind-json" => has_marks(text),
            _ => pre == "gpt-4o" && is_cut_otherwise(text),
        }
    }

    fn is_cut_otherwise(text: &str) -> bool {
        static CUTS: OnceLock<[fancy_regex::Regex; 2]> = OnceLock::new();
        let [hub, llama_cpp] = CUTS.get_or_init(|| GPT_4O.map(|cut| fancy_regex::Regex::new(cut).unwrap()));
        let words = |cut: &fancy_regex::Regex| {
            cut.find_iter(text).map(|word| word.unwrap().range()).collect::<Vec<_>>()
        };
        words(hub) != words(llama_cpp)
    }

    /// Returns whether a text has marks on letters, or the control that Unicode has for a new line.
    ///
    /// There the hub's library applies T5's table to whole characters as people count them, and
    /// llama.cpp to the longest match, as SentencePiece does, which the model was taught with.
    fn has_marks(text: &str) -> bool {
        static MARKS: OnceLock<fancy_regex::Regex> = OnceLock::new();
        let marks = MARKS.get_or_init(|| fancy_regex::Regex::new(r"\p{M}|\x{85}").unwrap());
        marks.is_match(text).unwrap()
    }

    /// Returns whether two divisions of a text are as good as each other: a unigram model gives
    /// the same pieces in another order the same score, and llama.cpp and SentencePiece
    /// take another one of them.
    fn is_tie(name: &str, one: &[i64], other: &[i64]) -> bool {
        let sorted = |ids: &[i64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        name.starts_with("t5-kind") && sorted(one) == sorted(other)
    }

    #[test]
    fn texts_become_the_tokens_that_others_make_of_them() {
        let Some(root) = vocabularies() else { return };
        let mut all_wrong = Vec::new();
        for folder in folders(&root) {
            let (path, keys) = convert(&folder);
            let pre = keys
                .iter()
                .find(|(key, _)| key == "tokenizer.ggml.pre")
                .unwrap()
                .1
                .as_str()
                .unwrap()
                .to_owned();
            let params = LlamaModelParams::default().with_vocab_only(true);
            let model = LlamaModel::load_from_file(backend(), &path, &params).unwrap();
            let vocabulary = model.vocab();
            let blanks = keys.iter().find(|(key, _)| key == TAKE_BLANKS);
            let blanks =
                blanks.map_or(Blanks::default(), |(_, list)| Blanks::read(list.as_str().unwrap()).unwrap());
            let parses = json(&folder.join("config.json"))["parse_special"].as_bool().unwrap();
            for (file, parses, least) in [("texts.json", parses, 500), ("golden.json", false, 40)] {
                if file == "golden.json" && !folder.join(file).exists() {
                    continue;
                }
                let cases = json(&folder.join(file));
                let cases: Vec<_> = cases.as_array().unwrap().iter().collect();
                let compared: Vec<_> = cases
                    .iter()
                    .filter(|case| !is_known(name(&folder), &pre, case["text"].as_str().unwrap()))
                    .collect();
                let wrong: Vec<String> = compared
                    .iter()
                    .filter_map(|case| {
                        let text = case["text"].as_str().unwrap();
                        let ids = case["ids"].as_array().unwrap();
                        let expected: Vec<i64> = ids.iter().map(|id| id.as_i64().unwrap()).collect();
                        let found = vocabulary.tokenize(blanks.drop(text).as_bytes(), false, parses);
                        let found: Vec<i64> = found.iter().map(|token| token.0.into()).collect();
                        (found != expected && !is_tie(name(&folder), &found, &expected))
                            .then(|| format!("{} {text:?}: {found:?}, not {expected:?}", name(&folder)))
                    })
                    .collect();
                let (alike, count) = (compared.len() - wrong.len(), compared.len());
                println!(
                    "{} {file}: {alike} of {count} texts alike, {} left out",
                    name(&folder),
                    cases.len() - count
                );
                assert!(count >= least, "{}: {count} texts are compared", folder.display());
                all_wrong.extend(wrong);
            }
        }
        assert!(
            all_wrong.is_empty(),
            "{} differ: {:#?}",
            all_wrong.len(),
            &all_wrong[..all_wrong.len().min(40)]
        );
    }
}
