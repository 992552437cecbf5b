//! What distinguishes the graphs of the architectures, as far as memory is concerned:
//! `src/models/*.cpp` of llama.cpp.

/// How a vector is normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    /// By its root mean square.
    Rms,
    /// By its mean and variance.
    Layer,
}

/// What happens to the embedding before the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Embedding {
    Plain,
    /// Multiplied with one number.
    Scaled,
    /// Multiplied with one number for each token.
    ScaledByToken,
    /// Positions from a table are added.
    Positioned,
    Normed,
}

/// How a block's two parts and its input come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residual {
    /// The feed-forward part reads what attention has added to the input.
    InTurn,
    /// Both parts read the input through one norm.
    Shared,
    /// Both parts read the input, each through its own norm.
    SideBySide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) norm: Norm,
    pub(super) embedding: Embedding,
    pub(super) residual: Residual,
    /// Whether queries and keys are turned by their position.
    pub(super) is_rotary: bool,
    /// Blocks whose number is a multiple of this are not, counted from 1; 0 where all are.
    pub(super) unturned_step: u32,
    /// Whether queries are scaled before attention.
    pub(super) scales_query: bool,
}

const LLAMA: Family = Family {
    norm: Norm::Rms,
    embedding: Embedding::Plain,
    residual: Residual::InTurn,
    is_rotary: true,
    unturned_step: 0,
    scales_query: false,
};

impl Family {
    /// Returns the graph's kind; those that are not known are taken to be as `llama`'s.
    pub(super) fn of(architecture: &str, is_side_by_side: bool) -> Self {
        let layer = Self { norm: Norm::Layer, ..LLAMA };
        match architecture {
            "gemma" | "gemma2" => Self { embedding: Embedding::Scaled, scales_query: true, ..LLAMA },
            "gemma3" => Self { embedding: Embedding::ScaledByToken, scales_query: true, ..LLAMA },
            "phi3" => Self { scales_query: true, ..LLAMA },
            "phi2" => Self { residual: Residual::Shared, scales_query: true, ..layer },
            "gptneox" if is_side_by_side => Self { residual: Residual::SideBySide, ..layer },
            "gptneox" => layer,
            "gpt2" => Self { embedding: Embedding::Positioned, is_rotary: false, ..layer },
            "bloom" => Self { embedding: Embedding::Normed, is_rotary: false, ..layer },
            "smollm3" => Self { unturned_step: 4, ..LLAMA },
            _ => LLAMA,
        }
    }

    pub(super) fn turns(&self, block: u32) -> bool {
        let is_left_out = self.unturned_step > 0 && (block + 1).is_multiple_of(self.unturned_step);
        self.is_rotary && !is_left_out
    }
}
