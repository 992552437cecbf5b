use std::io::{self, Read};

use super::value::{Array, Value};
use super::{ALIGNMENT, Error, MAGIC};
use crate::quant::TensorType;

/// The largest known header, of a model with 256 000 tokens, takes about 20 MiB.
const HEADER_LIMIT: u64 = 256 << 20;
/// Real models have below a hundred keys.
const KEYS_LIMIT: u64 = 1 << 16;
/// The largest known models have some thousands.
const TENSORS_LIMIT: u64 = 1 << 17;
/// A chat template may take 20 KiB, a character map 300 KiB.
const TEXT_LIMIT: u64 = 16 << 20;
/// The largest known vocabularies have 260 000 tokens, and some more merges.
const ITEMS_LIMIT: u64 = 1 << 24;
/// `GGML_MAX_DIMS`.
const DIMENSIONS_LIMIT: u32 = 4;

/// What stands before the tensors' data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3, which differ in nothing that matters here.
    pub version: u32,
    /// Keys and values, in the order of the file.
    pub metadata: Vec<(String, Value)>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// What tensors' offsets are multiples of.
    pub alignment: u64,
    /// Where tensors' data starts in the file.
    pub data_offset: u64,
}

/// One tensor: what it is, and where its data lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, the row's length first.
    pub shape: Vec<u64>,
    /// The format of the data.
    pub tensor_type: TensorType,
    /// Where its data starts, from the header's `data_offset` on.
    pub offset: u64,
    /// How long its data is.
    pub bytes: u64,
}

impl Header {
    /// Reads a header from the start of a file; reads no further than its end.
    ///
    /// Give a buffered reader: it is read in small pieces. [`Error::is_truncated`] tells
    /// that a prefix of a file was too short, so that more of it may be fetched.
    pub fn read(source: impl Read) -> Result<Self, Error> {
        let mut source = Source { inner: source, position: 0 };
        if source.array::<4>("the magic number")? != MAGIC {
            return Err(Error::Malformed("it does not start with GGUF".to_owned()));
        }
        let version = source.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(Error::Malformed(format!("version {version} is neither 2 nor 3")));
        }
        let tensors = source.count("tensors", TENSORS_LIMIT)?;
        let keys = source.count("keys", KEYS_LIMIT)?;
        let metadata = (0..keys)
            .map(|_| Ok((source.text("a key")?, source.value()?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let alignment = match metadata.iter().find(|(key, _)| key == "general.alignment") {
            None => ALIGNMENT,
            Some((_, value)) => value
                .as_u64()
                .filter(|n| n.is_power_of_two() && *n <= 1 << 16)
                .ok_or_else(|| Error::Malformed(format!("general.alignment is {value:?}")))?,
        };
        let tensors =
            (0..tensors).map(|_| source.tensor(alignment)).collect::<Result<Vec<TensorInfo>, Error>>()?;
        let data_offset = source.position.next_multiple_of(alignment);
        Ok(Self { version, metadata, tensors, alignment, data_offset })
    }

    /// Returns the value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Returns the length of the whole file, as far as the header tells.
    pub fn file_bytes(&self) -> u64 {
        let ends = self.tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.bytes));
        self.data_offset.saturating_add(ends.max().unwrap_or(0))
    }
}

struct Source<R> {
    inner: R,
    position: u64,
}

impl<R: Read> Source<R> {
    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        self.inner.read_exact(&mut bytes).map_err(|source| failed(part, source))?;
        Ok(bytes)
    }

    /// Counts `bytes` against what a header may have in all.
    fn advance(&mut self, bytes: u64) -> Result<(), Error> {
        self.position = self.position.saturating_add(bytes);
        if self.position > HEADER_LIMIT {
            return Err(Error::TooLarge { part: "bytes", count: self.position, limit: HEADER_LIMIT });
        }
        Ok(())
    }

    fn u32(&mut self, part: &'static str) -> Result<u32, Error> {
        self.array(part).map(u32::from_le_bytes)
    }

    fn u64(&mut self, part: &'static str) -> Result<u64, Error> {
        self.array(part).map(u64::from_le_bytes)
    }

    fn count(&mut self, part: &'static str, limit: u64) -> Result<u64, Error> {
        let count = self.u64(part)?;
        if count > limit { Err(Error::TooLarge { part, count, limit }) } else { Ok(count) }
    }

    fn text(&mut self, part: &'static str) -> Result<String, Error> {
        let len = self.u64(part)?;
        if len > TEXT_LIMIT {
            return Err(Error::TooLarge { part: "bytes of a text", count: len, limit: TEXT_LIMIT });
        }
        self.advance(len)?;
        // grows with what is really there, whatever the length claims
        let mut bytes = Vec::new();
        self.inner.by_ref().take(len).read_to_end(&mut bytes).map_err(Error::Read)?;
        if bytes.len() as u64 != len {
            return Err(Error::Truncated { part });
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn value(&mut self) -> Result<Value, Error> {
        const PART: &str = "a value";
        Ok(match self.u32(PART)? {
            0 => Value::U8(self.array(PART).map(u8::from_le_bytes)?),
            1 => Value::I8(self.array(PART).map(i8::from_le_bytes)?),
            2 => Value::U16(self.array(PART).map(u16::from_le_bytes)?),
            3 => Value::I16(self.array(PART).map(i16::from_le_bytes)?),
            4 => Value::U32(self.array(PART).map(u32::from_le_bytes)?),
            5 => Value::I32(self.array(PART).map(i32::from_le_bytes)?),
            6 => Value::F32(self.array(PART).map(f32::from_le_bytes)?),
            7 => Value::Bool(self.array::<1>(PART)? != [0]),
            8 => Value::Text(self.text(PART)?),
            Array::CODE => Value::Array(self.values()?),
            10 => Value::U64(self.array(PART).map(u64::from_le_bytes)?),
            11 => Value::I64(self.array(PART).map(i64::from_le_bytes)?),
            12 => Value::F64(self.array(PART).map(f64::from_le_bytes)?),
            other => return Err(Error::Malformed(format!("there is no kind of value {other}"))),
        })
    }

    fn values(&mut self) -> Result<Array, Error> {
        const PART: &str = "an array";
        let kind = self.u32(PART)?;
        let count = self.count("items of an array", ITEMS_LIMIT)?;
        Ok(match kind {
            0 => Array::U8(self.items(count, |s| s.array(PART).map(u8::from_le_bytes))?),
            1 => Array::I8(self.items(count, |s| s.array(PART).map(i8::from_le_bytes))?),
            2 => Array::U16(self.items(count, |s| s.array(PART).map(u16::from_le_bytes))?),
            3 => Array::I16(self.items(count, |s| s.array(PART).map(i16::from_le_bytes))?),
            4 => Array::U32(self.items(count, |s| s.array(PART).map(u32::from_le_bytes))?),
            5 => Array::I32(self.items(count, |s| s.array(PART).map(i32::from_le_bytes))?),
            6 => Array::F32(self.items(count, |s| s.array(PART).map(f32::from_le_bytes))?),
            7 => Array::Bool(self.items(count, |s| Ok(s.array::<1>(PART)? != [0]))?),
            8 => Array::Text(self.items(count, |s| s.text(PART))?),
            10 => Array::U64(self.items(count, |s| s.array(PART).map(u64::from_le_bytes))?),
            11 => Array::I64(self.items(count, |s| s.array(PART).map(i64::from_le_bytes))?),
            12 => Array::F64(self.items(count, |s| s.array(PART).map(f64::from_le_bytes))?),
            other => return Err(Error::Malformed(format!("there is no array of kind {other}"))),
        })
    }

    /// Collects by growing, so that a false count allocates nothing.
    fn items<T>(
        &mut self,
        count: u64,
        read: impl Fn(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn tensor(&mut self, alignment: u64) -> Result<TensorInfo, Error> {
        const PART: &str = "the list of tensors";
        let name = self.text(PART)?;
        let dimensions = self.u32(PART)?;
        if !(1..=DIMENSIONS_LIMIT).contains(&dimensions) {
            return Err(Error::Malformed(format!("tensor {name:?} has {dimensions} dimensions")));
        }
        let shape = self.items(dimensions.into(), |source| source.u64(PART))?;
        let code = self.u32(PART)?;
        let offset = self.u64(PART)?;
        let tensor_type = TensorType::from_code(code).ok_or_else(|| {
            Error::Malformed(format!("tensor {name:?} has type {code}, which is not known"))
        })?;
        let bytes = tensor_type.bytes(&shape).ok_or_else(|| {
            Error::Malformed(format!("tensor {name:?} of shape {shape:?} can not be {tensor_type}"))
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::Malformed(format!(
                "tensor {name:?} starts at {offset}, which is not aligned"
            )));
        }
        // with the header before it, too, that is a number that nobody's sum overflows
        if offset.checked_add(bytes).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Error::Malformed(format!("tensor {name:?} ends beyond the end of every file")));
        }
        Ok(TensorInfo { name, shape, tensor_type, offset, bytes })
    }
}

fn failed(part: &'static str, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        Error::Truncated { part }
    } else {
        Error::Read(source)
    }
}
