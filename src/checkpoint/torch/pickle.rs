//! What a pickle comes to: values, and of names only those in [`Global`].
//!
//! Values stand in one flat list and name each other by number, so that neither making nor
//! dropping them recurses, and a value that is used twice is there once. Every operation
//! makes at most one value, and one that goes over the values of a container counts as so many:
//! memory and time are bounded by [`OPERATIONS_LIMIT`], not by what a pickle claims.

use super::machine::Machine;
use crate::checkpoint::{Dtype, Error};

/// How many operations are run. A tensor takes some 50 of them.
pub(super) const OPERATIONS_LIMIT: usize = 2_000_000;

/// The longest text that is looked at, since a text may be named by every operation. Names of
/// tensors have some 100 bytes.
const TEXT_LIMIT: usize = 1024;

/// The number of a value.
pub(super) type Id = u32;

/// Where a text stands in the pickle.
pub(super) type Span = (usize, usize);

/// A value.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Text(Span),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A run of elements under a key.
    Storage {
        key: Id,
        dtype: Dtype,
        elements: u64,
    },
    Tensor(Box<View>),
}

/// A tensor as torch rebuilds it; offset and strides count elements.
#[derive(Debug)]
pub(super) struct View {
    pub(super) storage: Id,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// The names that weights are made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", _) => Self::Storage(match name.strip_suffix("Storage")? {
                "Float" => Dtype::F32,
                "Half" => Dtype::F16,
                "BFloat16" => Dtype::Bf16,
                "ComplexDouble" => Dtype::Other(Some(16)),
                "Double" | "Long" | "ComplexFloat" => Dtype::Other(Some(8)),
                "Int" => Dtype::Other(Some(4)),
                "Short" => Dtype::Other(Some(2)),
                "Char" | "Byte" | "Bool" => Dtype::Other(Some(1)),
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// Why a pickle gives no value.
#[derive(Debug)]
pub(super) enum Stop {
    /// It goes on behind what is there.
    Short,
    Fault(Error),
}

/// A pickle that has been run.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    input: &'a [u8],
    nodes: Vec<Node>,
    root: Id,
    len: usize,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle at the start of `input`.
    pub(super) fn run(input: &'a [u8]) -> Result<Self, Stop> {
        let mut machine = Machine::new(input);
        loop {
            if let Some(root) = machine.step()? {
                let (nodes, len) = machine.finish();
                return Ok(Self { input, nodes, root, len });
            }
        }
    }

    /// Returns how long it is.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn root(&self) -> &Node {
        self.node(self.root)
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    /// Returns the text that a value is, if it is no longer than a name.
    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        text(self.input, self.node(id))
    }
}

/// Returns the text that a value of the pickle `input` is, if it is no longer than a name.
pub(super) fn text<'a>(input: &'a [u8], node: &Node) -> Option<&'a str> {
    let Node::Text((from, to)) = node else { return None };
    let bytes = input.get(*from..*to).filter(|bytes| bytes.len() <= TEXT_LIMIT)?;
    std::str::from_utf8(bytes).ok()
}

pub(super) fn refused(why: String) -> Stop {
    Stop::Fault(Error::Pickle(why))
}
