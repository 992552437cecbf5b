use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::convert::PromptStyle;
use crate::quant::Quant;
use crate::units::Bytes;

/// What is to be made of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// A folder with a checkpoint, or a GGUF.
    pub source: PathBuf,
    /// The files to make; none may stand twice.
    pub outputs: Vec<Output>,
    /// Which columns matter: a file of llama.cpp's `imatrix`, in its old or its new form.
    pub imatrix: Option<PathBuf>,
    /// Whether a GGUF that is quantized already may be quantized again, which costs quality twice.
    pub may_requantize: bool,
    /// The style of prompts that a checkpoint without a chat template gets one for.
    pub prompt_style: Option<PromptStyle>,
    /// Threads; 0 takes one for each core.
    pub threads: u32,
}

impl Order {
    /// Returns the order of a single file, with nothing special about it.
    pub fn single(source: &Path, quant: Quant, path: &Path) -> Self {
        Self {
            source: source.to_owned(),
            outputs: vec![Output { quant, path: path.to_owned() }],
            imatrix: None,
            may_requantize: false,
            prompt_style: None,
            threads: 0,
        }
    }
}

/// A file to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its quant.
    pub quant: Quant,
    /// Its final name. What is there is replaced in one step.
    pub path: PathBuf,
}

/// A file that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its quant.
    pub quant: Quant,
    /// Its name.
    pub path: PathBuf,
    /// Its length.
    pub bytes: Bytes,
}
