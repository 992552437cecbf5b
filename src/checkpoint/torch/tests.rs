use std::fs;

use proptest::prelude::*;

use super::testing::{Given, PickleWriter, ZipEntry, legacy, legacy_file, zip, zip_entries, zip_file};
use super::*;
use crate::checkpoint::{Checkpoint, Dtype};

/// Three tensors, of which two share a storage, and a buffer of truth values.
fn sample() -> Vec<Given> {
    let whole = Given::f32("a", "0", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let row =
        Given { name: "a.last".to_owned(), offset: 3, shape: vec![3], strides: vec![1], ..whole.clone() };
    let mut mask = Given::f32("mask", "2", &[1, 1, 2], &[]);
    (mask.class, mask.elements, mask.data) = ("BoolStorage", 2, vec![1, 0]);
    let mut half = Given::f32("b", "1", &[2], &[]);
    (half.class, half.elements, half.data) = ("HalfStorage", 2, vec![0, 0x3c, 0, 0xc0]);
    vec![whole, row, half, mask]
}

fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, Checkpoint), Error> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path())?;
    Ok((dir, checkpoint))
}

/// Opens what must not open; returns what is said, with its causes, after checking that the file is named.
fn fault(bytes: &[u8]) -> String {
    use std::error::Error as _;
    let error = open(bytes).expect_err("refused");
    let said = format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
    assert!(said.contains("pytorch_model.bin"), "{said}");
    said
}

fn bytes_of(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(checkpoint.tensors()[name].bytes).unwrap()];
    checkpoint.read(name, 0, &mut out).unwrap();
    out
}

/// A file whose pickle is this.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&zip_entries(pickle, &sample()), false)
}

#[test]
fn both_kinds_of_file_give_the_same_tensors() {
    let long: Vec<ZipEntry> = zip_entries(&PickleWriter::state_dict(&sample(), false), &sample())
        .into_iter()
        .map(|entry| ZipEntry { is_long: true, ..entry })
        .collect();
    for file in [zip_file(&sample()), legacy_file(&sample()), zip(&long, true)] {
        let (_dir, checkpoint) = open(&file).unwrap();
        let tensors = checkpoint.tensors();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "a.last", "b", "mask"]);
        assert_eq!((tensors["a"].dtype, tensors["a"].shape.as_slice()), (Dtype::F32, &[2, 3][..]));
        assert_eq!((tensors["b"].dtype, tensors["b"].bytes), (Dtype::F16, 4));
        assert_eq!(tensors["mask"].dtype, Dtype::Other(Some(1)));
        assert_eq!(bytes_of(&checkpoint, "a"), sample()[0].data);
        assert_eq!(bytes_of(&checkpoint, "a.last"), sample()[0].data[12..]);
        assert_eq!(bytes_of(&checkpoint, "b"), sample()[2].data);
        assert_eq!(bytes_of(&checkpoint, "mask"), [1, 0]);
    }
}

#[test]
fn a_parameter_and_the_versions_of_modules_are_taken_for_what_they_are() {
    let given = &sample()[0];
    let ordered = |pickle: PickleWriter| pickle.global("collections", "OrderedDict").op(b')').op(b'R');
    let pickle = ordered(PickleWriter::new())
        .text("a")
        .global("torch._utils", "_rebuild_parameter")
        .op(b'(')
        .tensor(given, false)
        .op(0x88);
    let pickle = ordered(pickle).op(b't').op(b'R').op(b's');
    let pickle = ordered(pickle.op(b'}').text("_metadata")).op(b's').op(b'b').op(b'.');
    let (_dir, checkpoint) = open(&zip(&zip_entries(&pickle.0, &sample()[..1]), false)).unwrap();
    assert_eq!(bytes_of(&checkpoint, "a"), given.data);
}

#[test]
fn a_file_is_described_from_its_two_ends() {
    let mut large = sample();
    let values = vec![1.5; 400_000];
    large.push(Given::f32("large", "3", &[400, 1000], &values));
    for file in [zip_file(&large), legacy_file(&large)] {
        let mut scan = Scan::new(file.len() as u64);
        let mut taken = 0;
        let contents = loop {
            match scan.step().unwrap() {
                Step::Done(contents) => break contents,
                Step::Need(range) => {
                    let piece = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    taken += piece.len();
                    scan.take(range.start, file[piece].to_vec());
                }
            }
        };
        assert!(taken <= 2 * usize::try_from(FIRST_PIECE).unwrap(), "{taken}");
        assert_eq!(contents.tensors()["large"].shape, [400, 1000]);
        assert_eq!(contents.tensors().len(), 5);
    }
}

#[test]
fn pieces_that_never_suffice_are_not_asked_for_without_end() {
    let mut scan = Scan::new(1 << 40);
    for _ in 0..PIECES_LIMIT {
        let Ok(Step::Need(range)) = scan.step() else { panic!("it goes on") };
        scan.take(range.start, Vec::new());
    }
    assert!(scan.step().is_err());
}

#[test]
fn a_pickle_that_would_run_something_is_refused_with_its_name() {
    let proof = std::env::temp_dir().join(format!("bramble-pickle-ran-{}", std::process::id()));
    let command = format!("touch {}", proof.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load")] {
        let pickle = PickleWriter::new().global(module, name).text(&command).op(0x85).op(b'R').op(b'.').0;
        for file in [with_pickle(&pickle), legacy(&pickle, &sample())] {
            let said = fault(&file);
            assert!(said.contains(&format!("{module}.{name}")) && said.contains("not trusted"), "{said}");
        }
    }
    assert!(!proof.exists(), "it was run");
}

#[test]
fn what_nests_or_grows_without_end_is_refused() {
    let deep = |op: u8| [&[0x80, 2][..], &vec![op; 1_000_000], b"."].concat();
    assert!(fault(&with_pickle(&deep(b'('))).contains("nested deeper"));
    let tuples = [&[0x80, 2, b')'][..], &vec![0x85; 1_000_000], b"."].concat();
    assert!(fault(&with_pickle(&tuples)).contains("nested deeper"));
    assert!(fault(&with_pickle(&deep(b']'))).contains("dict of tensors"), "a million lists, side by side");
    let many = [&[0x80, 2][..], &vec![b'N'; 2_100_000], b"."].concat();
    assert!(fault(&with_pickle(&many)).contains("operations"));
    // each list holds the one before twice: by value it would have 2^40 items
    let mut bomb = PickleWriter::new().op(b']');
    for index in 0..40 {
        bomb = bomb.op(b'q').op(index).op(b']').op(b'h').op(index).op(b'a').op(b'h').op(index).op(b'a');
    }
    assert!(fault(&with_pickle(&bomb.op(b'.').0)).contains("nested deeper"));
    // a list that holds itself
    let own = PickleWriter::new().op(b']').op(b'q').op(0);
    let own = (0..100).fold(own, |pickle, _| pickle.op(b'h').op(0).op(b'a'));
    assert!(fault(&with_pickle(&own.op(b'.').0)).contains("nested deeper"));
}

fn repeated(pickle: PickleWriter, times: usize, operations: &[u8]) -> PickleWriter {
    PickleWriter([pickle.0, operations.repeat(times)].concat())
}

#[test]
fn what_is_there_once_is_not_gone_over_without_end() {
    // a list of as many pairs, of which a dict is made again and again
    let pairs = PickleWriter::new().int(1).int(1).op(0x86).op(b'q').op(0).op(b']').op(b'q').op(1).op(b'(');
    let pairs = repeated(pairs, 50_000, b"h\x00").op(b'e');
    let dicts = repeated(pairs.global("collections", "OrderedDict").op(b'q').op(2), 50, b"h\x02h\x01\x85R");
    // the same for attributes of an object, for what a storage is a view of, and for marks of a tensor
    let state = PickleWriter::new().text("_metadata").op(b'q').op(0).op(b'}').op(b'q').op(1).op(b'(');
    let state = repeated(state, 50_000, b"h\x00N").op(b'u');
    let built = repeated(state.op(b'}'), 50, b"h\x01b");
    let id = PickleWriter::new().op(b'(').text("storage").global("torch", "FloatStorage");
    let id = repeated(id.text("0").text("cpu").int(1), 50_000, b"N").op(b't').op(b'q').op(0);
    let storages = repeated(id, 50, b"h\x00Q");
    let call = PickleWriter::new().global("torch._utils", "_rebuild_tensor_v2").op(b'q').op(0).op(b'(');
    let call = call.storage(&sample()[0], false).int(0).op(b')').op(b')').op(0x89).op(b'N');
    let call = repeated(call, 50_000, b"N").op(b't').op(b'q').op(1);
    let tensors = repeated(call, 50, b"h\x00h\x01R");
    for pickle in [dicts, built, storages, tensors] {
        let said = fault(&with_pickle(&pickle.op(b'.').0));
        assert!(said.contains("more than 2000000 operations"), "{said}");
    }
    // nor is a text that may be named again and again
    let mut long = sample();
    long[0].name = "x".repeat(1025);
    for file in [zip_file(&long), legacy_file(&long)] {
        assert!(fault(&file).contains("too long"));
    }
}

#[test]
fn a_tensor_that_is_not_all_there_is_an_error() {
    let mut beyond = sample();
    beyond[1].offset = 4;
    let mut huge = sample();
    (huge[0].shape, huge[0].strides) = (vec![i64::MAX, i64::MAX], vec![1, 1]);
    let mut claimed = sample();
    claimed[0].elements = i64::MAX;
    let mut turned = sample();
    turned[0].strides = vec![1, 2];
    let mut negative = sample();
    negative[0].offset = -1;
    let mut dimensions = sample();
    (dimensions[0].shape, dimensions[0].strides) = (vec![1; 9], vec![1; 9]);
    let mut twice = sample();
    twice[1].name = "a".to_owned();
    for (tensors, why) in [
        (beyond, "\"a.last\""),
        (huge, "\"a\""),
        (claimed, "larger than any file"),
        (turned, "strides [1, 2]"),
        (negative, "below 0"),
        (dimensions, "9 dimensions"),
        (twice, "there twice"),
    ] {
        for file in [zip_file(&tensors), legacy_file(&tensors)] {
            let said = fault(&file);
            assert!(said.contains(why), "{said}");
        }
    }
    let pickle = PickleWriter::state_dict(&sample(), false);
    let said = fault(&zip(&zip_entries(&pickle, &sample()[..2]), false));
    assert!(said.contains("no entry \"model/data/1\""), "{said}");
    let said = fault(&legacy(&PickleWriter::state_dict(&sample(), true), &sample()[..2]));
    assert!(said.contains("is missing"), "{said}");
    let mut longer = legacy_file(&sample());
    longer.push(0);
    assert!(fault(&longer).contains("need"));
    let number = PickleWriter::new().op(b'}').text("step").int(7).op(b's').op(b'.').0;
    assert!(fault(&with_pickle(&number)).contains("\"step\""));
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let entries = zip_entries(&PickleWriter::state_dict(&sample(), false), &sample());
    let changed = |change: &dyn Fn(&mut Vec<ZipEntry>)| {
        let mut entries = entries.clone();
        change(&mut entries);
        fault(&zip(&entries, false))
    };
    assert!(changed(&|entries| entries[2].method = 8).contains("\"model/data/0\" is compressed"));
    assert!(changed(&|entries| entries.push(entries[2].clone())).contains("\"model/data/0\" is there twice"));
    assert!(changed(&|entries| drop(entries.remove(0))).contains("data.pkl"));
    assert!(changed(&|entries| entries[1].data = b"big".to_vec()).contains("little-endian"));
    assert!(changed(&|entries| entries[2].data.push(0)).contains("has 25 bytes, not 24"));
    assert!(changed(&|entries| entries[0].data.truncate(20)).contains("cut off"));
    let mut commented = zip(&entries, false);
    commented.push(b'!');
    assert!(fault(&commented).contains("cut off"));
    // the list says that the data of the first entry reaches into the second
    let mut reaching = zip(&entries, false);
    let list = reaching.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let grown = (u32::try_from(entries[0].data.len()).unwrap() + 400).to_le_bytes();
    reaching[list + 20..list + 24].copy_from_slice(&grown);
    reaching[list + 24..list + 28].copy_from_slice(&grown);
    assert!(fault(&reaching).contains("reaches into"));
    // long sizes that claim more than any file
    let mut long = entries.clone();
    long[2].is_long = true;
    let mut file = zip(&long, true);
    let at = file.windows(4).rposition(|four| four == [1, 0, 24, 0]).unwrap();
    file[at + 4..at + 20].fill(0x7f);
    assert!(fault(&file).contains("reaches into"));
    let mut file = zip(&long, true);
    let at = file.windows(4).rposition(|four| four == b"PK\x06\x06").unwrap();
    file[at + 48..at + 56].fill(0xff);
    assert!(fault(&file).contains("not inside"));
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for file in [zip_file(&sample()), legacy_file(&sample())] {
        for sixteenth in 0..16 {
            fault(&file[..file.len() * sixteenth / 16]);
        }
        fault(&file[..file.len() - 1]);
    }
    assert!(fault(b"<html>").contains("begins like no file"));
}

#[test]
fn the_count_before_a_legacy_storage_must_be_right() {
    let mut file = legacy_file(&sample());
    let at = file.windows(8).rposition(|eight| eight == 6u64.to_le_bytes()).unwrap();
    file[at] = 7;
    assert!(fault(&file).contains("has 7 elements, and 6 are expected"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn damage_gives_an_error_or_tensors_inside_the_file(
        is_legacy: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = if is_legacy { legacy_file(&sample()) } else { zip_file(&sample()) };
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok((_dir, checkpoint)) = open(&file) {
            for (name, stored) in checkpoint.tensors() {
                prop_assert!(stored.offset + stored.bytes <= file.len() as u64);
                prop_assert_eq!(bytes_of(&checkpoint, &name).len() as u64, stored.bytes);
            }
        }
    }

    #[test]
    fn any_pickle_is_run_to_an_end(operations in prop::collection::vec(
        prop_oneof![
            Just(b"}".to_vec()), Just(b")".to_vec()), Just(b"]".to_vec()), Just(b"(".to_vec()), Just(b"t".to_vec()),
            Just(b"u".to_vec()), Just(b"e".to_vec()), Just(b"a".to_vec()), Just(b"s".to_vec()), Just(b"R".to_vec()),
            Just(b"b".to_vec()), Just(b"Q".to_vec()), Just(b"q\x00".to_vec()), Just(b"h\x00".to_vec()),
            Just(b"X\x01\0\0\0x".to_vec()), Just(b"K\x01".to_vec()), Just(b"\x8a\x01\xff".to_vec()), Just(vec![0x87]),
            Just(b"ccollections\nOrderedDict\n".to_vec()), Just(b"ctorch\nHalfStorage\n".to_vec()),
            Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
            prop::collection::vec(any::<u8>(), 1..4),
        ], 0..60,
    )) {
        let _ = pickle::Pickle::run(&[operations.concat(), b".".to_vec()].concat());
    }
}

/// What torch itself wrote (`tests/reference/torch_files.py`), with the digests that it told.
#[test]
fn what_torch_itself_writes_is_read_as_it_was_written() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/golden/torch");
    let told = fs::read(golden.join("tensors.json")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    let dtypes = [
        ("float32", Dtype::F32),
        ("float16", Dtype::F16),
        ("bfloat16", Dtype::Bf16),
        ("int64", Dtype::Other(Some(8))),
        ("bool", Dtype::Other(Some(1))),
    ];
    for file in ["zip.bin", "legacy.bin"] {
        let (_dir, checkpoint) = open(&fs::read(golden.join(file)).unwrap()).unwrap();
        let tensors = checkpoint.tensors();
        assert_eq!(tensors.len(), told.as_object().unwrap().len(), "{file}");
        for (name, stored) in &tensors {
            let told = &told[name];
            let sha256 = crate::ids::Digest::of(&bytes_of(&checkpoint, name)).to_string();
            assert_eq!(told["sha256"], sha256.as_str(), "{file}: {name}");
            assert_eq!(told["shape"], serde_json::json!(stored.shape), "{file}: {name}");
            assert!(dtypes.contains(&(told["dtype"].as_str().unwrap(), stored.dtype)), "{file}: {name}");
        }
    }
}
