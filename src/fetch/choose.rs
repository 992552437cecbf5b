//! Which files of a repository or folder a conversion needs. Names in, names out.

use std::collections::BTreeSet;

use super::address::is_gguf;
use super::error::Error;
use crate::checkpoint::{Index, Weights};

/// What a conversion reads besides the weights, where it is there.
pub(super) const SMALL: [&str; 12] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// The most files that the weights of one model are in; the largest ones that are published have some two hundred.
const MOST_SHARDS: usize = 1024;

/// Chooses the files of a checkpoint among `names`: the small ones, and the weights, as
/// safetensors where there are such, else as torch's.
pub(super) fn checkpoint(what: &str, names: &[&str]) -> Result<(Vec<String>, Weights), Error> {
    let fail = |why: String| Err(Error::NotACheckpoint { what: what.to_owned(), why });
    let has = |name: &str| names.contains(&name);
    let Some(weights) = Weights::among(names) else {
        let ggufs: Vec<&str> = names.iter().filter(|name| is_gguf(name)).take(8).copied().collect();
        if !ggufs.is_empty() {
            return fail(format!("it holds GGUF files, of which one must be named: {}", ggufs.join(", ")));
        }
        let with_end =
            |end: &str| names.iter().filter(|name| !name.contains('/') && name.ends_with(end)).min().copied();
        if with_end(".safetensors").is_some() || has("adapter_model.bin") {
            return fail("it is an adapter, which needs the model that it was made for".to_owned());
        }
        if let Some(pickle) = [".bin", ".pth", ".pt"].into_iter().find_map(with_end) {
            return Err(Error::NotYet {
                what: format!("{what} with torch weights of other names ({pickle})"),
                instead: "name a repository or revision that has model.safetensors or pytorch_model.bin, or one GGUF file",
            });
        }
        return fail("there is no .safetensors, no pytorch_model.bin and no .gguf file in it".to_owned());
    };
    if !has("config.json") {
        return fail("there is no config.json in it".to_owned());
    }
    let small = SMALL.iter().filter(|name| has(name)).map(|name| (*name).to_owned());
    let index = match &weights {
        Weights::Indexed(index) => Some((*index).to_owned()),
        Weights::Files(_) => None,
    };
    Ok((small.chain(index).collect(), weights))
}

/// Returns the shards that the text of the index called `name` names; each is among `names`.
pub(super) fn shards(
    what: &str,
    name: &'static str,
    text: &[u8],
    names: &[&str],
) -> Result<Vec<String>, Error> {
    let bad = |why: String| Error::BadAnswer { what: format!("{what}/{name}"), why };
    let index = Index::parse(name, text).map_err(|error| bad(error.to_string()))?;
    let (found, names) = (index.shards(), names.iter().copied().collect::<BTreeSet<_>>());
    if found.len() > MOST_SHARDS {
        return Err(bad(format!(
            "it names {} files with weights, and {MOST_SHARDS} are read at most",
            found.len()
        )));
    }
    match found.iter().find(|shard| !names.contains(*shard)) {
        Some(missing) => Err(bad(format!("it names {missing:?}, which is not there"))),
        None => Ok(found.into_iter().map(str::to_owned).collect()),
    }
}

/// Checks that `name` is a GGUF that can be used alone.
pub(super) fn gguf(what: &str, name: &str) -> Result<(), Error> {
    // gguf-split's names: NAME-00001-of-00003.gguf
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let is_part = stem.rsplit_once("-of-").is_some_and(|(head, count)| {
        is_number(count) && head.rsplit_once('-').is_some_and(|(_, n)| is_number(n))
    });
    if is_part {
        return Err(Error::NotYet {
            what: format!("{what}, a part of a split GGUF,"),
            instead: "name a GGUF in one file, or join the parts with llama-gguf-split --merge and name the file",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = Index::SAFETENSORS;

    fn check(names: &[&str], small: &[&str], weights: &Weights) {
        let (got_small, got) = checkpoint("org/repo", names).unwrap();
        assert_eq!(got_small, small);
        assert_eq!(&got, weights);
    }

    #[test]
    fn only_what_a_conversion_reads_is_chosen() {
        let names = ["README.md", "config.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json"];
        let one = Weights::Files(vec!["model.safetensors".to_owned()]);
        check(&names, &["config.json", "tokenizer.json"], &one);
        // Mistral publishes the same weights twice: the index says which are the checkpoint's
        let twice =
            ["config.json", "consolidated.safetensors", INDEX, "model-1.safetensors", "pytorch_model.bin"];
        check(&twice, &["config.json", INDEX], &Weights::Indexed(INDEX));
        let other = Weights::Files(vec!["a.safetensors".to_owned(), "b.safetensors".to_owned()]);
        check(&["b.safetensors", "a.safetensors", "config.json"], &["config.json"], &other);
    }

    #[test]
    fn every_file_that_a_tokenizer_is_converted_from_is_chosen() {
        assert!(crate::convert::TOKENIZER_FILES.iter().all(|name| SMALL.contains(name)));
    }

    #[test]
    fn what_holds_no_checkpoint_says_what_it_holds() {
        let said = |names: &[&str]| checkpoint("org/repo", names).unwrap_err().to_string();
        assert!(said(&["config.json", "consolidated.00.pth"]).contains("consolidated.00.pth"));
        assert!(said(&["adapter_model.bin", "config.json"]).contains("adapter"));
        assert!(said(&["training_args.bin", "config.json"]).contains("training_args.bin"));
        assert!(said(&["a.Q8_0.gguf", "b.Q4_0.gguf"]).contains("a.Q8_0.gguf, b.Q4_0.gguf"));
        assert!(said(&["adapter_model.safetensors", "config.json"]).contains("adapter"));
        assert!(said(&["model.safetensors"]).contains("config.json"));
        assert!(said(&["README.md"]).contains("no .safetensors"));
    }

    #[test]
    fn torch_weights_are_taken_where_there_is_nothing_else() {
        let one = Weights::Files(vec!["pytorch_model.bin".to_owned()]);
        let names = ["config.json", "pytorch_model.bin", "training_args.bin", "tf_model.h5"];
        check(&names, &["config.json"], &one);
        let index = Index::TORCH;
        let shards = ["config.json", "pytorch_model-00001-of-00002.bin", index];
        check(&shards, &["config.json", index], &Weights::Indexed(index));
    }

    #[test]
    fn an_index_cannot_name_what_is_not_listed() {
        let names = ["a.safetensors", "b.safetensors"];
        let index = br#"{"weight_map":{"x":"b.safetensors","y":"a.safetensors","z":"b.safetensors"}}"#;
        assert_eq!(shards("o/r", INDEX, index, &names).unwrap(), names);
        let climbing = r#"{"weight_map":{"x":"../../etc/a.safetensors"}}"#;
        let absent = r#"{"weight_map":{"x":"c.safetensors"}}"#;
        for bad in ["", "{}", r#"{"weight_map":{}}"#, climbing, absent] {
            assert!(shards("o/r", INDEX, bad.as_bytes(), &names).is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_are_in_a_number_of_files_that_somebody_can_have_meant() {
        let names: Vec<String> = (0..=MOST_SHARDS).map(|n| format!("{n}.safetensors")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let index = |names: &[&str]| {
            let map: serde_json::Map<_, _> =
                names.iter().map(|&name| (name.to_owned(), name.into())).collect();
            serde_json::json!({ "weight_map": map }).to_string()
        };
        let most = &names[..MOST_SHARDS];
        assert_eq!(shards("o/r", INDEX, index(most).as_bytes(), &names).unwrap().len(), MOST_SHARDS);
        let error = shards("o/r", INDEX, index(&names).as_bytes(), &names).unwrap_err();
        assert!(
            error.to_string().contains("it names 1025 files with weights, and 1024 are read at most"),
            "{error}"
        );
    }

    #[test]
    fn a_part_of_a_split_gguf_is_refused() {
        assert!(gguf("o/r", "m-00001-of-00003.gguf").is_err());
        assert!(gguf("o/r", "best-of-2.gguf").is_ok());
    }
}
