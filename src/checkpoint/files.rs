use super::Index;

/// Which files of a folder or repository are the weights of its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// These, all of them.
    Files(Vec<String>),
    /// Those that this index names.
    Indexed(&'static str),
}

impl Weights {
    /// Chooses among names; none where none of them is weights. Safetensors come before torch's
    /// files, one file before the shards of an index, as the hub's library has it.
    ///
    /// Safetensors of other names, without an index, are one checkpoint together. What is in folders
    /// is of other formats (`onnx/`, `original/`), and an adapter is no model.
    pub fn among(names: &[&str]) -> Option<Self> {
        for (single, index) in
            [("model.safetensors", Index::SAFETENSORS), ("pytorch_model.bin", Index::TORCH)]
        {
            if names.contains(&single) {
                return Some(Self::Files(vec![single.to_owned()]));
            }
            if names.contains(&index) {
                return Some(Self::Indexed(index));
            }
        }
        let is_weights = |name: &&&str| {
            name.ends_with(".safetensors") && !name.contains('/') && !name.starts_with("adapter_")
        };
        let mut others: Vec<String> =
            names.iter().filter(is_weights).map(|name| (*name).to_owned()).collect();
        others.sort();
        (!others.is_empty()).then_some(Self::Files(others))
    }
}
