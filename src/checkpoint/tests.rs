use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::torch::testing::{Given, zip_file};
use super::*;

/// Makes a file of f32 tensors, in the order given.
fn file(tensors: &[(&str, &[u64], &[f32])]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        entries.insert((*name).to_owned(), entry);
    }
    with_header(&serde_json::Value::Object(entries).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn two_tensors() -> Vec<u8> {
    file(&[("b", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), ("a", &[1], &[5.0])])
}

#[test]
fn the_header_alone_tells_names_and_shapes() {
    let bytes = two_tensors();
    let len = Header::len(*bytes.first_chunk().unwrap()).unwrap();
    let header = Header::parse(&bytes[..usize::try_from(len).unwrap()]).unwrap();
    assert_eq!((header.data_offset, header.data_bytes), (len, 20));
    let b = &header.tensors["b"];
    assert_eq!((b.dtype, b.shape.as_slice(), b.offset, b.bytes), (Dtype::F32, &[2, 2][..], 0, 16));
}

#[test]
fn pieces_of_a_tensor_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), two_tensors()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut out = [0; 4];
    checkpoint.read("b", 8, &mut out).unwrap();
    assert_eq!(out, 3f32.to_le_bytes());
    checkpoint.read("a", 0, &mut out).unwrap();
    assert_eq!(out, 5f32.to_le_bytes());
    assert!(checkpoint.read("a", 1, &mut out).is_err(), "beyond the tensor");
    assert!(checkpoint.read("c", 0, &mut out).is_err());
}

#[test]
fn a_file_that_is_cut_off_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = two_tensors();
    fs::write(dir.path().join("model.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert!(matches!(error, Error::File { source, .. } if source.to_string().contains("promises")));
}

#[test]
fn a_name_of_the_index_that_no_shard_has_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("x-1.safetensors", &file(&[("a", &[1], &[1.0])]));
    write("x-2.safetensors", &file(&[("b", &[1], &[2.0])]));
    let index =
        |map: &str| write("model.safetensors.index.json", format!(r#"{{"weight_map":{map}}}"#).as_bytes());
    index(r#"{"a":"x-1.safetensors","b":"x-2.safetensors"}"#);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut out = [0; 4];
    checkpoint.read("b", 0, &mut out).unwrap();
    assert_eq!(out, 2f32.to_le_bytes());
    index(r#"{"a":"x-1.safetensors","c":"x-2.safetensors"}"#);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Missing { tensor, shard, .. } if tensor == "c" && shard == "x-2.safetensors")
    );
    index(r#"{"a":"../x-1.safetensors"}"#);
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Index { .. })), "no way out of the folder");
}

#[test]
fn a_tensor_in_two_shards_is_an_error_and_one_beside_the_index_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("x-1.safetensors", &file(&[("a", &[1], &[1.0]), ("c", &[1], &[3.0])]));
    write("x-2.safetensors", &file(&[("b", &[1], &[2.0])]));
    write("model.safetensors.index.json", br#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 3);
    write("x-2.safetensors", &file(&[("b", &[1], &[2.0]), ("a", &[1], &[1.0])]));
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Twice { tensor, shard } if tensor == "a" && shard == "x-2.safetensors"));
}

#[test]
fn files_without_an_index_are_one_checkpoint_unless_a_tensor_is_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("y.safetensors", &file(&[("a", &[1], &[1.0])]));
    write("x.safetensors", &file(&[("b", &[1], &[2.0])]));
    write("adapter_model.safetensors", &file(&[("a", &[1], &[3.0])]));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut out = [0; 4];
    checkpoint.read("a", 0, &mut out).unwrap();
    assert_eq!(out, 1f32.to_le_bytes());
    assert_eq!(checkpoint.path("b"), Some(dir.path().join("x.safetensors").as_path()));
    write("z.safetensors", &file(&[("a", &[1], &[3.0])]));
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Twice { tensor, shard } if tensor == "a" && shard == "z.safetensors"));
    // what is named as the hub names it stands for itself
    write("model.safetensors", &two_tensors());
    write("model.safetensors.index.json", b"{}");
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 2);
}

#[test]
fn torch_files_are_taken_where_there_are_no_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::NoWeights(_))));
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let torch = |name: &str| zip_file(&[Given::f32(name, "0", &[1], &[7.0])]);
    write("m-1-of-2.bin", &torch("a"));
    write("m-2-of-2.bin", &torch("b"));
    write("pytorch_model.bin.index.json", br#"{"weight_map":{"a":"m-1-of-2.bin","b":"m-2-of-2.bin"}}"#);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut out = [0; 4];
    checkpoint.read("b", 0, &mut out).unwrap();
    assert_eq!(out, 7f32.to_le_bytes());
    assert_eq!(checkpoint.path("b"), Some(dir.path().join("m-2-of-2.bin").as_path()));
    write("pytorch_model.bin.index.json", br#"{"weight_map":{"a":"m-1-of-2.bin","c":"m-2-of-2.bin"}}"#);
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Missing { index: Index::TORCH, .. })));
    write("pytorch_model.bin.index.json", br#"{"weight_map":{"a":"m-1-of-2.safetensors"}}"#);
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Index { .. })), "of the other format");
    write("model.safetensors", &two_tensors());
    assert!(Checkpoint::open(dir.path()).unwrap().tensors().contains_key("a"));
}

#[test]
fn damaged_safetensors_are_errors_that_name_the_file_and_the_fault() {
    use std::error::Error as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let good = two_tensors();
    let overlapping = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]}}"#;
    let mut bad: Vec<Vec<u8>> = (0..16).map(|part| good[..good.len() * part / 16].to_vec()).collect();
    bad.push(with_header(overlapping, &[0; 10]));
    bad.push([&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    bad.push([&99_999_999u64.to_le_bytes()[..], b"{}"].concat());
    for bytes in bad {
        fs::write(&path, bytes).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors is not sound"), "{error}");
        assert!(!error.source().unwrap().to_string().is_empty());
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let lies = [
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"Q","shape":[],"data_offsets":[0,18446744073709551615]},"b":{"dtype":"Q","shape":[],"data_offsets":[18446744073709551615,18446744073709551615]}}"#,
        "[]",
    ];
    let refused = lies.map(|header| Header::parse(&with_header(header, &[0; 8])).is_err());
    assert_eq!(refused, [true, true, true, true, true, true, false, true]);
    assert!(Header::len([0xff; 8]).is_err());
}

#[test]
fn a_rendered_header_says_the_same() {
    let mut tensors = Header::parse(&two_tensors()).unwrap().tensors;
    let mask = Stored { dtype: Dtype::Other(Some(1)), shape: vec![3], offset: 0, bytes: 3 };
    tensors.insert("mask".to_owned(), mask);
    let again = Header::parse(&with_header(&render(&tensors), &[])).unwrap();
    let facts = |tensors: &BTreeMap<String, Stored>| -> Vec<(String, Dtype, Vec<u64>, u64)> {
        tensors.iter().map(|(name, s)| (name.clone(), s.dtype, s.shape.clone(), s.bytes)).collect()
    };
    assert_eq!(facts(&again.tensors), facts(&tensors));
    assert_eq!(again.data_bytes, 23);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&with_header(&String::from_utf8_lossy(&bytes), &[]));
        let _ = Index::parse(Index::TORCH, &bytes);
    }

    #[test]
    fn a_damaged_header_never_panics(at in 8usize..120, byte: u8) {
        let mut bytes = two_tensors();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Header::parse(&bytes);
    }
}
