use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! tensor_types {
    ($($variant:ident = $text:literal, $code:literal, $block:literal, $bytes:literal;)*) => {
        /// The format of one tensor: values in blocks that share scales.
        ///
        /// Numbers and sizes are ggml's (`enum ggml_type`, `ggml-common.h`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "the names are the documentation, and are ggml's")]
        pub enum TensorType {
            $(#[serde(rename = $text)] $variant,)*
        }

        impl TensorType {
            /// Every type that ggml has.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name: `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Returns ggml's number for it, as it stands in a GGUF.
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code),* }
            }

            /// Returns the type with ggml's number `code`; none if ggml has no such type.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// Returns how many values a block holds; a row is a whole number of blocks.
            pub const fn block_len(self) -> u64 {
                match self { $(Self::$variant => $block),* }
            }

            /// Returns the bytes of a block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes),* }
            }
        }
    };
}

tensor_types! {
    F32 = "F32", 0, 1, 4;
    F16 = "F16", 1, 1, 2;
    Q4_0 = "Q4_0", 2, 32, 18;
    Q4_1 = "Q4_1", 3, 32, 20;
    Q5_0 = "Q5_0", 6, 32, 22;
    Q5_1 = "Q5_1", 7, 32, 24;
    Q8_0 = "Q8_0", 8, 32, 34;
    Q8_1 = "Q8_1", 9, 32, 36;
    Q2K = "Q2_K", 10, 256, 84;
    Q3K = "Q3_K", 11, 256, 110;
    Q4K = "Q4_K", 12, 256, 144;
    Q5K = "Q5_K", 13, 256, 176;
    Q6K = "Q6_K", 14, 256, 210;
    Q8K = "Q8_K", 15, 256, 292;
    Iq2Xxs = "IQ2_XXS", 16, 256, 66;
    Iq2Xs = "IQ2_XS", 17, 256, 74;
    Iq3Xxs = "IQ3_XXS", 18, 256, 98;
    Iq1S = "IQ1_S", 19, 256, 50;
    Iq4Nl = "IQ4_NL", 20, 32, 18;
    Iq3S = "IQ3_S", 21, 256, 110;
    Iq2S = "IQ2_S", 22, 256, 82;
    Iq4Xs = "IQ4_XS", 23, 256, 136;
    I8 = "I8", 24, 1, 1;
    I16 = "I16", 25, 1, 2;
    I32 = "I32", 26, 1, 4;
    I64 = "I64", 27, 1, 8;
    F64 = "F64", 28, 1, 8;
    Iq1M = "IQ1_M", 29, 256, 56;
    Bf16 = "BF16", 30, 1, 2;
    Tq1_0 = "TQ1_0", 34, 256, 54;
    Tq2_0 = "TQ2_0", 35, 256, 66;
    Mxfp4 = "MXFP4", 39, 32, 17;
    Nvfp4 = "NVFP4", 40, 64, 36;
    Q1_0 = "Q1_0", 41, 128, 18;
    Q2_0 = "Q2_0", 42, 64, 18;
}

impl TensorType {
    /// Returns the bytes of a row of `len` values; none if `len` is not a whole number of
    /// blocks, or if the product does not fit.
    pub fn row_bytes(self, len: u64) -> Option<u64> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Returns the bytes of a tensor of `shape`, the row's length first; none as [`Self::row_bytes`].
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let (row, others) = shape.split_first()?;
        others.iter().try_fold(self.row_bytes(*row)?, |bytes, rows| bytes.checked_mul(*rows))
    }

    /// Tells whether values are packed in blocks that share a scale.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_found_again() {
        for (index, kind) in TensorType::ALL.iter().enumerate() {
            assert_eq!(TensorType::from_code(kind.code()), Some(*kind));
            assert!(TensorType::ALL[..index].iter().all(|other| other.name() != kind.name()));
        }
        assert_eq!(TensorType::from_code(4), None, "Q4_2 is gone from ggml");
    }

    #[test]
    fn a_row_is_a_whole_number_of_blocks() {
        assert_eq!(TensorType::Q4K.row_bytes(2048), Some(1152));
        assert_eq!(TensorType::Q4K.row_bytes(576), None);
        assert_eq!(TensorType::Q8_0.bytes(&[576, 49_152]), Some(30_081_024));
        assert_eq!(TensorType::F32.bytes(&[u64::MAX, 2]), None);
        assert_eq!(TensorType::F32.bytes(&[]), None);
    }
}
