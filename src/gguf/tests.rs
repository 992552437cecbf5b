use proptest::prelude::*;

use super::*;
use crate::quant::TensorType;

fn tensor(name: &str, shape: &[u64], tensor_type: TensorType) -> NewTensor {
    NewTensor { name: name.to_owned(), shape: shape.to_vec(), tensor_type }
}

fn sample() -> (Vec<(String, Value)>, Vec<NewTensor>) {
    let metadata = vec![
        ("general.architecture".to_owned(), Value::from("llama")),
        ("a.u8".to_owned(), Value::U8(200)),
        ("a.i8".to_owned(), Value::I8(-3)),
        ("a.u16".to_owned(), Value::U16(60_000)),
        ("a.i16".to_owned(), Value::I16(-300)),
        ("a.u32".to_owned(), Value::from(7u32)),
        ("a.i32".to_owned(), Value::I32(-7)),
        ("a.f32".to_owned(), Value::from(1e-5f32)),
        ("a.bool".to_owned(), Value::from(true)),
        ("a.u64".to_owned(), Value::U64(1 << 40)),
        ("a.i64".to_owned(), Value::I64(-1)),
        ("a.f64".to_owned(), Value::F64(0.1)),
        ("a.texts".to_owned(), Value::from(vec!["ä".to_owned(), String::new()])),
        ("a.numbers".to_owned(), Value::from(vec![1, -2, 3])),
        ("a.flags".to_owned(), Value::Array(Array::Bool(vec![true, false]))),
    ];
    let tensors = vec![
        tensor("norm", &[3], TensorType::F32),
        tensor("empty", &[0], TensorType::F32),
        tensor("matrix", &[32, 2], TensorType::Q8_0),
    ];
    (metadata, tensors)
}

fn written() -> Vec<u8> {
    let (metadata, tensors) = sample();
    let mut writer = Writer::start(Vec::new(), &metadata, &tensors).unwrap();
    writer.data(&[1; 5]).unwrap();
    writer.data(&[1; 7]).unwrap();
    writer.data(&[2; 68]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_was_written_is_read() {
    let (metadata, tensors) = sample();
    let bytes = written();
    let header = Header::read(bytes.as_slice()).unwrap();
    assert_eq!(header.version, 3);
    assert_eq!(header.metadata, metadata);
    let found: Vec<_> = header.tensors.iter().map(|t| (t.name.as_str(), t.offset, t.bytes)).collect();
    assert_eq!(found, [("norm", 0, 12), ("empty", 32, 0), ("matrix", 32, 68)]);
    assert!(header.tensors.iter().zip(&tensors).all(|(a, b)| a.shape == b.shape));
    let start = usize::try_from(header.data_offset).unwrap();
    assert_eq!(bytes[start..start + 12], [1; 12]);
    assert_eq!(bytes[start + 12..start + 32], [0; 20]);
    assert_eq!(bytes[start + 32..start + 100], [2; 68]);
    // padded to the alignment at the end as well, as llama.cpp writes it
    assert_eq!(bytes.len(), start + 128);
    assert_eq!(header.file_bytes(), start as u64 + 100);
    assert_eq!(bytes, written(), "the same bytes each time");
}

#[test]
fn every_cut_header_is_told_from_a_wrong_one() {
    let bytes = written();
    let end = usize::try_from(Header::read(bytes.as_slice()).unwrap().data_offset).unwrap();
    let unpadded = (0..end).rev().find(|&n| Header::read(&bytes[..n]).is_err()).unwrap();
    assert!(end - unpadded <= 32);
    for len in 0..=unpadded {
        assert!(Header::read(&bytes[..len]).unwrap_err().is_truncated(), "cut at {len}");
    }
    let wrong = Header::read(&b"GGML\x03\0\0\0"[..]).unwrap_err();
    assert!(!wrong.is_truncated());
}

#[test]
fn false_counts_are_refused_before_anything_is_allocated() {
    let mut bytes = written();
    bytes[8..16].fill(0xff);
    assert!(matches!(Header::read(bytes.as_slice()), Err(Error::TooLarge { part: "tensors", .. })));
    let mut bytes = written();
    bytes[24..32].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(Header::read(bytes.as_slice()), Err(Error::TooLarge { .. })));
    // an allowed length that is not there: only what is there is held
    let mut bytes = written();
    bytes[24..32].copy_from_slice(&(8u64 << 20).to_le_bytes());
    assert!(Header::read(bytes.as_slice()).unwrap_err().is_truncated());
}

#[test]
fn an_old_version_and_a_big_endian_file_are_refused() {
    for version in [1u32, 4, 3u32.swap_bytes()] {
        let mut bytes = written();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(matches!(Header::read(bytes.as_slice()), Err(Error::Malformed(_))));
    }
}

#[test]
fn the_writer_holds_its_caller_to_the_header() {
    let tensors = [tensor("a", &[2], TensorType::F32)];
    let mut writer = Writer::start(Vec::new(), &[], &tensors).unwrap();
    writer.data(&[0; 4]).unwrap();
    assert!(writer.data(&[0; 8]).is_err(), "too much");
    assert!(matches!(writer.finish(), Err(Error::Promise(_))), "too little");
    let mut none = Writer::start(Vec::new(), &[], &[]).unwrap();
    assert!(none.data(&[0]).is_err());
    let odd = [tensor("a", &[33], TensorType::Q4_0)];
    assert!(Writer::start(Vec::new(), &[], &odd).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Header::read(bytes.as_slice());
    }

    #[test]
    fn a_damaged_header_never_panics(at in 0usize..700, byte: u8, cut in 0usize..900) {
        let mut bytes = written();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Ok(header) = Header::read(bytes.as_slice()) {
            prop_assert!(header.tensors.len() <= bytes.len());
            prop_assert!(header.metadata.len() <= bytes.len());
        }
    }
}
