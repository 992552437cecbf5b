use std::fs;

use proptest::prelude::*;

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
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("promises") && error.contains("model.safetensors"), "{error}");
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
        matches!(&error, Error::Missing { tensor, shard } if tensor == "c" && shard == "x-2.safetensors")
    );
    index(r#"{"a":"../x-1.safetensors"}"#);
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Index(_))), "no way out of the folder");
}

#[test]
fn torch_files_are_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::NoWeights(_))));
    fs::write(dir.path().join("pytorch_model.bin"), b"PK").unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Torch(_))));
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

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&with_header(&String::from_utf8_lossy(&bytes), &[]));
        let _ = Index::parse(&bytes);
    }

    #[test]
    fn a_damaged_header_never_panics(at in 8usize..120, byte: u8) {
        let mut bytes = two_tensors();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Header::parse(&bytes);
    }
}
