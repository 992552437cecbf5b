use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! quants {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $ftype:literal;)*) => {
        /// A quantization mix as the field names it, best quality first.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        pub enum Quant {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Quant {
            /// Every quant that Bramble makes, best quality first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name: `Q4_K_M`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Returns llama.cpp's number for it (`enum llama_ftype`, also `general.file_type`).
            pub const fn ftype(self) -> u32 {
                match self { $(Self::$variant => $ftype),* }
            }
        }
    };
}

quants! {
    /// 32-bit floats: the reference.
    F32 = "F32", 0;
    /// 16-bit floats.
    F16 = "F16", 1;
    /// 16-bit brain floats.
    Bf16 = "BF16", 32;
    /// 8 bits.
    Q8_0 = "Q8_0", 7;
    /// 6 bits, K.
    Q6K = "Q6_K", 18;
    /// 5 bits, K, medium.
    Q5KM = "Q5_K_M", 17;
    /// 5 bits, K, small.
    Q5KS = "Q5_K_S", 16;
    /// 5 bits with a minimum, old format.
    Q5_1 = "Q5_1", 9;
    /// 5 bits, old format.
    Q5_0 = "Q5_0", 8;
    /// 4 bits, K, medium.
    Q4KM = "Q4_K_M", 15;
    /// 4 bits, K, small.
    Q4KS = "Q4_K_S", 14;
    /// 4 bits, non-linear.
    Iq4Nl = "IQ4_NL", 25;
    /// 4 bits, non-linear, extra small.
    Iq4Xs = "IQ4_XS", 30;
    /// 4 bits with a minimum, old format.
    Q4_1 = "Q4_1", 3;
    /// 4 bits, old format.
    Q4_0 = "Q4_0", 2;
    /// 3 bits, K, large.
    Q3KL = "Q3_K_L", 13;
    /// 3 bits, K, medium.
    Q3KM = "Q3_K_M", 12;
    /// 3 bits, K, small.
    Q3KS = "Q3_K_S", 11;
    /// 2 bits, K.
    Q2K = "Q2_K", 10;
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quant {
    type Err = UnknownQuant;
    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, UnknownQuant> {
        let found = Self::ALL.iter().find(|quant| quant.name().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| UnknownQuant(text.to_owned()))
    }
}

/// A text that names no quant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quant that Bramble knows: use one such as Q4_K_M")]
pub struct UnknownQuant(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_quant_is_told_what_one_is() {
        let told = "Q4_K_XXL".parse::<Quant>().unwrap_err().to_string();
        assert_eq!(told, "\"Q4_K_XXL\" is not a quant that Bramble knows: use one such as Q4_K_M");
    }
}
