//! Damaged and hostile checkpoints, given to the operator's command: each is refused by the
//! name of its file and of what is wrong in it, nothing of it is run, and nothing is left.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[expect(dead_code, reason = "its other parts are for other tests")]
#[path = "../src/checkpoint/torch/testing.rs"]
mod torch;

use desk::Desk;
use torch::{Given, PickleWriter, zip, zip_entries, zip_file};

/// One host, this machine; and the model of the folder.
const MANIFEST: &str = "\
bramble: 1
fleet: home
serve: { port: 18080, tls: off }
models:
  chat: { source: \"file:model\", context: 256 }
hosts:
  desk: { address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }
deploy:
  - { model: chat, on: [desk] }
";

/// A desk with a small model in `model/`.
struct Bench(Desk);

impl Bench {
    fn new() -> Self {
        let desk = Desk::new(MANIFEST);
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        desk.put_bundle(b"never unpacked");
        Self(desk)
    }

    fn weights(&self) -> PathBuf {
        self.0.path("model/model.safetensors")
    }

    /// The header of the weights, and what is after it.
    fn parts(&self) -> (Value, Vec<u8>) {
        let bytes = fs::read(self.weights()).unwrap();
        let end = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
        (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
    }

    fn put(&self, header: &Value, data: &[u8]) {
        let header = header.to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        fs::write(self.weights(), bytes).unwrap();
    }

    /// Puts a torch file in place of the safetensors.
    fn put_torch(&self, bytes: &[u8]) {
        let _ = fs::remove_file(self.weights());
        fs::write(self.0.path("model/pytorch_model.bin"), bytes).unwrap();
    }

    /// Holds what converting says to `words`, and what it leaves to nothing.
    #[track_caller]
    fn convert_says(&self, words: &[&str]) {
        // without the bundle, which cannot make weights, the program beside this one makes them
        let mut command = self.0.command(&["convert", "model", "--quant", "F16,Q8_0", "--out", "out"]);
        let ended = command.env_remove("BRAMBLE_BUNDLES").output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && ended.stdout.is_empty(), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        assert_eq!(fs::read_dir(self.0.path("out")).unwrap().count(), 0, "{said}");
    }

    /// Holds what planning says to `words`; it ends with "refused".
    #[track_caller]
    fn plan_says(&self, words: &[&str]) {
        let ended = self.0.command(&["plan"]).output().unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
    }
}

#[test]
fn weights_that_are_cut_off_are_named() {
    let bench = Bench::new();
    let whole = fs::read(bench.weights()).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(bench.weights(), &whole[..length]).unwrap();
        bench.convert_says(&["model/model.safetensors is not sound; fetch it again"]);
    }
    bench.convert_says(&["the file has", "bytes, and its header promises"]);
}

#[test]
fn headers_that_lie_are_named() {
    let bench = Bench::new();
    let (header, data) = bench.parts();
    let named = "model/model.safetensors is not sound; fetch it again";
    // two tensors have the same bytes
    let mut overlapping = header.clone();
    let first = overlapping["model.layers.0.self_attn.q_proj.weight"]["data_offsets"].clone();
    overlapping["model.layers.0.self_attn.k_proj.weight"]["data_offsets"] = first;
    bench.put(&overlapping, &data);
    bench.convert_says(&[named, "q_proj.weight\" does not start where the one before ends"]);
    bench.plan_says(&["refused: chat: "]);
    for length in [u64::MAX, 1 << 62, 99_999_999] {
        let mut bytes = fs::read(bench.weights()).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(bench.weights(), bytes).unwrap();
        bench.convert_says(&[named]);
        bench.plan_says(&["refused: chat: ", "model.safetensors"]);
    }
    let mut gigantic = header;
    gigantic["model.norm.weight"]["shape"] = json!([1_u64 << 40, 1_u64 << 30]);
    bench.put(&gigantic, &data);
    bench.convert_says(&[named, "model.norm.weight"]);
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let bench = Bench::new();
    let (header, data) = bench.parts();
    bench.put(&header, &vec![0xff; data.len()]);
    bench.convert_says(&["model/model.safetensors", "tensor ", "a value is NaN"]);
    // a single infinity in the middle of one tensor
    let place = &header["model.layers.0.mlp.down_proj.weight"]["data_offsets"];
    let at = usize::try_from(place[0].as_u64().unwrap()).unwrap() + 2000;
    let mut data = data;
    data[at..at + 2].copy_from_slice(&[0x80, 0x7f]);
    bench.put(&header, &data);
    bench.convert_says(&["model/model.safetensors", "blk.0.ffn_down.weight", "a value is inf"]);
}

#[test]
fn pickles_that_want_more_than_tensors_are_named_and_nothing_is_run() {
    let bench = Bench::new();
    let proof = bench.0.path("it-was-run");
    let with = |pickle: &[u8]| bench.put_torch(&zip(&zip_entries(pickle, &[]), false));
    let named = "model/pytorch_model.bin is not trusted";
    for (module, name) in
        [("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("my.own", "Thing")]
    {
        let call = PickleWriter::new().global(module, name).text(&format!("touch {}", proof.display()));
        with(&call.op(0x85).op(b'R').op(b'.').0);
        bench.convert_says(&[named, &format!("{module}.{name}"), "nothing of it was run"]);
        bench.plan_says(&["refused: chat: ", "pytorch_model.bin", &format!("{module}.{name}")]);
    }
    assert!(!proof.exists());
    let deep = [&[0x80, 2, b')'][..], &vec![0x85; 1_000_000], b"."].concat();
    with(&deep);
    bench.convert_says(&[named, "nested deeper"]);
    bench.plan_says(&["refused: chat: ", "pytorch_model.bin", "nested deeper"]);
}

#[test]
fn torch_files_that_lack_something_are_named() {
    let bench = Bench::new();
    // the list names a tensor whose storage is not there
    let (here, gone) =
        (Given::f32("model.norm.weight", "0", &[64], &[0.0; 64]), Given::f32("b", "1", &[1], &[1.0]));
    let pickle = PickleWriter::state_dict(&[here.clone(), gone], false);
    bench.put_torch(&zip(&zip_entries(&pickle, std::slice::from_ref(&here)), false));
    bench.convert_says(&["model/pytorch_model.bin is not sound", "no entry \"model/data/1\""]);
    // all that is named is there, and the model wants more
    bench.put_torch(&zip_file(&[here]));
    bench.convert_says(&["cannot convert model", "model.embed_tokens.weight"]);
    bench.plan_says(&["refused: chat: ", "model.embed_tokens.weight"]);
    let whole = zip_file(&[Given::f32("a", "0", &[64], &[0.0; 64])]);
    bench.put_torch(&whole[..whole.len() / 2]);
    bench.convert_says(&["model/pytorch_model.bin is not sound"]);
}

#[test]
fn several_files_without_an_index_are_one_checkpoint_if_they_have_no_tensor_twice() {
    let bench = Bench::new();
    let (header, data) = bench.parts();
    let split = |is_first: &dyn Fn(&str) -> bool, name: &str| {
        let (mut own, mut bytes) = (serde_json::Map::new(), Vec::new());
        for (tensor, entry) in header.as_object().unwrap().iter().filter(|(tensor, _)| is_first(tensor)) {
            let place = |at: usize| usize::try_from(entry["data_offsets"][at].as_u64().unwrap()).unwrap();
            let start = bytes.len();
            bytes.extend(&data[place(0)..place(1)]);
            let mut entry = entry.clone();
            entry["data_offsets"] = json!([start, bytes.len()]);
            own.insert(tensor.clone(), entry);
        }
        let header = Value::Object(own).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
        fs::write(bench.0.path("model").join(name), file).unwrap();
    };
    let convert = |out: &str| {
        let mut command = bench.0.command(&["convert", "model", "--quant", "F16", "--out", out]);
        let ended = command.env_remove("BRAMBLE_BUNDLES").output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        fs::read(bench.0.path(out).join("model-F16.gguf")).unwrap()
    };
    let whole = convert("whole");
    fs::remove_file(bench.weights()).unwrap();
    split(&|tensor| tensor.contains("mlp"), "a.safetensors");
    split(&|tensor| !tensor.contains("mlp"), "b.safetensors");
    assert!(convert("split") == whole);
    // both are told of it before a weight is read
    split(&|tensor| !tensor.contains("up_proj"), "b.safetensors");
    fs::create_dir(bench.0.path("out")).unwrap();
    bench.convert_says(&["down_proj.weight\" of b.safetensors is in another file, too"]);
    bench.plan_says(&["refused: chat: ", "down_proj.weight\" is in two files"]);
}
