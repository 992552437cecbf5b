use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Dtype, Error};

/// The largest header that is read: safetensors' own limit.
const HEADER_LIMIT: u64 = 100_000_000;
/// Real tensors have up to five dimensions.
const DIMENSIONS_LIMIT: usize = 8;

/// What one safetensors file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Stored>,
    /// Where tensors' data starts in the file.
    pub data_offset: u64,
    /// How long their data is, all together.
    pub data_bytes: u64,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How values are stored.
    pub dtype: Dtype,
    /// Elements by dimension, the outermost first: the reverse of GGUF's order.
    pub shape: Vec<u64>,
    /// Where its data starts: from the header's `data_offset` on, in a torch file from its start.
    pub offset: u64,
    /// How long its data is.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Header {
    /// Returns how many bytes from the start of a file hold its header, from the first eight.
    pub fn len(first: [u8; 8]) -> Result<u64, Error> {
        let len = u64::from_le_bytes(first);
        if (2..=HEADER_LIMIT).contains(&len) {
            Ok(len + 8)
        } else {
            Err(Error::Header(format!("it would be {len} bytes long")))
        }
    }

    /// Reads a header from the first bytes of a file, as many as [`Self::len`] tells or more.
    ///
    /// Data must be contiguous, and as long as shapes and types say.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let cut_off = || Error::Header("it is cut off".to_owned());
        let first = *bytes.first_chunk::<8>().ok_or_else(cut_off)?;
        let data_offset = Self::len(first)?;
        let end = usize::try_from(data_offset).map_err(|_| cut_off())?;
        let text = bytes.get(8..end).ok_or_else(cut_off)?;
        let mut entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(text).map_err(|error| Error::Header(error.to_string()))?;
        entries.remove("__metadata__");
        let mut tensors = BTreeMap::new();
        for (name, entry) in entries {
            let stored = entry_of(entry).map_err(|why| Error::Header(format!("tensor {name:?}: {why}")))?;
            tensors.insert(name, stored);
        }
        let mut in_file: Vec<(&String, &Stored)> = tensors.iter().collect();
        in_file.sort_by_key(|(_, stored)| (stored.offset, stored.bytes));
        let mut data_bytes = 0;
        for (name, stored) in in_file {
            if stored.offset != data_bytes {
                return Err(Error::Header(format!(
                    "tensor {name:?} does not start where the one before ends"
                )));
            }
            // entry_of has checked the sum
            data_bytes += stored.bytes;
        }
        Ok(Self { tensors, data_offset, data_bytes })
    }
}

/// Writes the JSON of a header that has these tensors, one after the other: what is known
/// of a torch file, in the form that is known of all others.
pub fn render(tensors: &BTreeMap<String, Stored>) -> String {
    let mut end = 0u64;
    let entry = |(name, stored): (&String, &Stored)| {
        let start = end;
        // tensors of torch may share their bytes: the sum is no length of any file
        end = end.saturating_add(stored.bytes);
        let entry = serde_json::json!({
            "dtype": stored.dtype.name(), "shape": stored.shape, "data_offsets": [start, end],
        });
        (name.clone(), entry)
    };
    serde_json::Value::Object(tensors.iter().map(entry).collect()).to_string()
}

fn entry_of(entry: serde_json::Value) -> Result<Stored, String> {
    let Entry { dtype, shape, data_offsets: (start, end) } =
        serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let dtype = Dtype::parse(&dtype);
    if shape.len() > DIMENSIONS_LIMIT {
        return Err(format!("{} dimensions", shape.len()));
    }
    let bytes = end.checked_sub(start).ok_or("its end is before its start")?;
    if let Some(each) = dtype.bytes() {
        let claimed = shape.iter().try_fold(each, |product, len| product.checked_mul(*len));
        if claimed != Some(bytes) {
            return Err(format!("{bytes} bytes for shape {shape:?}"));
        }
    }
    Ok(Stored { dtype, shape, offset: start, bytes })
}
