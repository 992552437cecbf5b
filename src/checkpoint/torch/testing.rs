//! Makes torch files for tests: sound ones, and ones with a fault in one place. It names
//! nothing of the crate, so that tests/torch.rs can include it.

/// Writes pickles, operation by operation.
#[derive(Debug, Clone)]
pub(crate) struct PickleWriter(pub(crate) Vec<u8>);

/// One tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) class: &'static str,
    pub(crate) key: String,
    /// The elements of the storage, and its values.
    pub(crate) elements: i64,
    pub(crate) data: Vec<u8>,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

impl Given {
    /// A tensor of f32 that has its storage for itself.
    pub(crate) fn f32(name: &str, key: &str, shape: &[i64], values: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            class: "FloatStorage",
            key: key.to_owned(),
            elements: i64::try_from(values.len()).unwrap(),
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            offset: 0,
            shape: shape.to_vec(),
            strides: contiguous(shape),
        }
    }
}

fn contiguous(shape: &[i64]) -> Vec<i64> {
    (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect()
}

impl PickleWriter {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn op(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.push(b'X');
        self.0.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub(crate) fn int(mut self, number: i64) -> Self {
        match (u8::try_from(number), u16::try_from(number), i32::try_from(number)) {
            (Ok(one), _, _) => self.0.extend([b'K', one]),
            (_, Ok(two), _) => self.0.extend([&b"M"[..], &two.to_le_bytes()].concat()),
            (_, _, Ok(four)) => self.0.extend([&b"J"[..], &four.to_le_bytes()].concat()),
            _ => self.0.extend([&[0x8a, 8][..], &number.to_le_bytes()].concat()),
        }
        self
    }

    pub(crate) fn global(mut self, module: &str, name: &str) -> Self {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
        self
    }

    fn sizes(self, sizes: &[i64]) -> Self {
        sizes.iter().fold(self.op(b'('), |pickle, size| pickle.int(*size)).op(b't')
    }

    /// Pushes a storage as either kind of file names it.
    pub(crate) fn storage(self, given: &Given, is_legacy: bool) -> Self {
        let pickle = self
            .op(b'(')
            .text("storage")
            .global("torch", given.class)
            .text(&given.key)
            .text("cpu")
            .int(given.elements);
        let pickle = if is_legacy { pickle.op(b'N') } else { pickle };
        pickle.op(b't').op(b'Q')
    }

    pub(crate) fn tensor(self, given: &Given, is_legacy: bool) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b'(')
            .storage(given, is_legacy)
            .int(given.offset)
            .sizes(&given.shape)
            .sizes(&given.strides)
            .op(0x89)
            .global("collections", "OrderedDict")
            .op(b')')
            .op(b'R')
            .op(b't')
            .op(b'R')
    }

    /// A whole pickle: an ordered dict of these tensors.
    pub(crate) fn state_dict(tensors: &[Given], is_legacy: bool) -> Vec<u8> {
        let start =
            Self::new().global("collections", "OrderedDict").op(b')').op(b'R').op(b'q').op(0).op(b'(');
        let add = |pickle: Self, given: &Given| pickle.text(&given.name).tensor(given, is_legacy);
        tensors.iter().fold(start, add).op(b'u').op(b'.').0
    }
}

/// An entry of an archive to be written.
#[derive(Debug, Clone)]
pub(crate) struct ZipEntry {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) method: u16,
    /// Whether its sizes and place are written in the long form only.
    pub(crate) is_long: bool,
}

impl ZipEntry {
    pub(crate) fn stored(name: &str, data: &[u8]) -> Self {
        Self { name: name.to_owned(), data: data.to_vec(), method: 0, is_long: false }
    }
}

/// Writes an archive as torch does: data begins at multiples of 64, sizes stand in the list only.
pub(crate) fn zip(entries: &[ZipEntry], is_long: bool) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = out.len();
        let name_len = u16::try_from(entry.name.len()).unwrap();
        let padding = (64 - (at + 30 + entry.name.len() + 4) % 64) % 64;
        let extra =
            [&b"FB"[..], &u16::try_from(padding).unwrap().to_le_bytes(), &vec![b'Z'; padding]].concat();
        out.extend(b"PK\x03\x04\0\0\x08\x08");
        out.extend(entry.method.to_le_bytes());
        out.extend([0; 16]);
        out.extend(name_len.to_le_bytes());
        out.extend(u16::try_from(extra.len()).unwrap().to_le_bytes());
        out.extend(entry.name.as_bytes());
        out.extend(extra);
        out.extend(&entry.data);
        let len = entry.data.len();
        let short = |number: usize| {
            if entry.is_long { [0xff; 4] } else { u32::try_from(number).unwrap().to_le_bytes() }
        };
        let long = if entry.is_long {
            let numbers = [len, len, at].map(|number| (number as u64).to_le_bytes()).concat();
            [&[1, 0, 24, 0][..], &numbers].concat()
        } else {
            Vec::new()
        };
        list.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
        list.extend(entry.method.to_le_bytes());
        list.extend([0; 8]);
        list.extend([short(len), short(len)].concat());
        list.extend(name_len.to_le_bytes());
        list.extend(u16::try_from(long.len()).unwrap().to_le_bytes());
        list.extend([0; 10]);
        list.extend(short(at));
        list.extend(entry.name.as_bytes());
        list.extend(long);
    }
    let (start, count) = (out.len() as u64, entries.len() as u64);
    out.extend(&list);
    if is_long {
        let at = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend([0; 12]);
        out.extend([count, count, list.len() as u64, start].map(u64::to_le_bytes).concat());
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(at.to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    let shorts = if is_long { [0xffff; 2] } else { [u16::try_from(count).unwrap(); 2] };
    out.extend(shorts.map(u16::to_le_bytes).concat());
    let words =
        if is_long { [0xffff_ffff; 2] } else { [list.len(), out.len()].map(|n| u32::try_from(n).unwrap()) };
    let words = if is_long { words } else { [words[0], u32::try_from(start).unwrap()] };
    out.extend(words.map(u32::to_le_bytes).concat());
    out.extend([0; 2]);
    out
}

/// The entries of an archive with these tensors.
pub(crate) fn zip_entries(pickle: &[u8], tensors: &[Given]) -> Vec<ZipEntry> {
    let mut entries =
        vec![ZipEntry::stored("model/data.pkl", pickle), ZipEntry::stored("model/byteorder", b"little")];
    for given in tensors {
        let entry = ZipEntry::stored(&format!("model/data/{}", given.key), &given.data);
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    entries.push(ZipEntry::stored("model/version", b"3\n"));
    entries
}

/// A zip file with these tensors.
pub(crate) fn zip_file(tensors: &[Given]) -> Vec<u8> {
    zip(&zip_entries(&PickleWriter::state_dict(tensors, false), tensors), false)
}

/// A legacy file: `object` is the pickle of `tensors`.
pub(crate) fn legacy(object: &[u8], tensors: &[Given]) -> Vec<u8> {
    // the pickles of torch's magic number and of its protocol, 1001
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    let machine = PickleWriter::new().op(b'}').op(b'(').text("protocol_version").int(1001);
    out.extend(machine.text("little_endian").op(0x88).op(b'u').op(b'.').0);
    out.extend(object);
    let mut storages: Vec<&Given> = Vec::new();
    for given in tensors {
        if !storages.iter().any(|known| known.key == given.key) {
            storages.push(given);
        }
    }
    let keys = PickleWriter::new().op(b']').op(b'(');
    out.extend(storages.iter().fold(keys, |keys, given| keys.text(&given.key)).op(b'e').op(b'.').0);
    for given in storages {
        out.extend(given.elements.to_le_bytes());
        out.extend(&given.data);
    }
    out
}

/// A legacy file with these tensors.
pub(crate) fn legacy_file(tensors: &[Given]) -> Vec<u8> {
    legacy(&PickleWriter::state_dict(tensors, true), tensors)
}
