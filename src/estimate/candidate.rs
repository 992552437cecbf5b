//! The forms that a model's weights could have, tensor by tensor.

use serde::{Deserialize, Serialize};

use super::Tensor;
use crate::catalog::{ModelFacts, Stored, TensorShape};
use crate::ids::Digest;
use crate::quant::{Quant, TensorType, mix};
use crate::units::Bytes;

/// The weights of a model in one of the forms that they could have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The quant; none for a file that is used as it is and names none.
    pub quant: Option<Quant>,
    /// Every tensor of the file.
    pub tensors: Vec<Tensor>,
    /// How it is made ([`crate::source::Recipe::digest`]), by which a host's measured figures
    /// are found.
    #[serde(default)]
    pub recipe: Option<Digest>,
}

impl Candidate {
    /// Returns the form that a GGUF has; a checkpoint is not used as it is.
    pub fn as_it_is(model: &ModelFacts) -> Option<Self> {
        let Stored::Gguf { tensors, quant, .. } = &model.stored else { return None };
        let tensors = tensors.iter().filter_map(|shape| {
            let name = shape.tensor_type.as_deref()?;
            let tensor_type = TensorType::ALL.iter().find(|tensor_type| tensor_type.name() == name)?;
            tensor(shape, *tensor_type)
        });
        Some(Self { quant: *quant, tensors: tensors.collect(), recipe: None })
    }

    /// Foretells the form that `quant` makes of a model.
    pub fn quantized(model: &ModelFacts, quant: Quant) -> Self {
        let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &model.stored;
        let shapes: Vec<(&str, &[u64])> = model.shapes().collect();
        let mix_facts = mix::MixFacts {
            architecture: &model.architecture,
            layers: model.layers,
            heads: model.heads,
            kv_heads: model.kv_heads,
            has_imatrix: model.imatrix.is_some(),
        };
        let types = mix::plan(&shapes, mix_facts, quant);
        let tensors = tensors.iter().zip(types).filter_map(|(shape, tensor_type)| tensor(shape, tensor_type));
        Self { quant: Some(quant), tensors: tensors.collect(), recipe: None }
    }

    /// Returns the quant's name, or `as is`.
    pub fn name(&self) -> &'static str {
        self.quant.map_or("as is", Quant::name)
    }

    /// Returns the bytes of its tensors, without the file's header.
    pub fn tensor_bytes(&self) -> Bytes {
        // 32 is GGUF's default alignment
        Bytes(self.tensors.iter().map(|tensor| tensor.bytes.next_multiple_of(32)).sum())
    }

    /// Predicts the size of the file. Where the file exists, its own size is better.
    pub fn file(&self, model: &ModelFacts) -> Bytes {
        self.tensor_bytes()
            + HEADER_PER_TOKEN * u64::from(model.vocab)
            + HEADER_PER_TENSOR * self.tensors.len() as u64
    }
}

/// What the header holds for each token: its text, its type, and its merge or its score.
/// SmolLM2-135M (49152 tokens, byte-level merges): 1.70 MiB of header, 36 bytes a token.
const HEADER_PER_TOKEN: Bytes = Bytes(36);
/// What the header holds for each tensor: name, shape, type, offset.
const HEADER_PER_TENSOR: Bytes = Bytes(64);

fn tensor(shape: &TensorShape, tensor_type: TensorType) -> Option<Tensor> {
    let row = shape.shape.first().copied().unwrap_or(1);
    Some(Tensor::new(shape, tensor_type.name(), tensor_type.row_bytes(row)?))
}
