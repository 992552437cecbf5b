//! Where everything goes: pure, and complete before the first byte is written.

use std::ops::Range;

use super::source::Tensor;
use crate::quant::{TensorType, mix};

/// How many values a piece has, unless one row has more. A piece and what is made of it stay in a
/// core's own cache, and are still long enough that reading and writing them is cheap.
const PIECE: u64 = 1 << 17;

/// What is done to a tensor's values on their way into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Its bytes are taken as they are.
    Copied,
    /// Encoded as this type, of the values as they were read.
    Exact(TensorType),
    /// Encoded as this type, of values that were rounded to the checkpoint's own float.
    Rounded(TensorType),
}

/// One form of a tensor, and the files that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) form: Form,
    /// The length of a row in a file.
    pub(super) row_bytes: u64,
    /// Files by number, each with where the tensor starts in it.
    pub(super) at: Vec<(usize, u64)>,
}

/// Rows of one tensor that are worked on together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) tensor: usize,
    pub(super) rows: Range<u64>,
}

/// Returns the form of a tensor where it is to be of type `wanted`.
///
/// `is_float` tells that the whole file is of floats: such a file is the conversion itself, and
/// its values are rounded once. A quantized file is what llama.cpp makes of the checkpoint
/// as a GGUF of its own float, so its values are rounded to that first.
pub(super) fn form(tensor: &Tensor, wanted: TensorType, is_float: bool) -> Form {
    if tensor.stored == Some(wanted) {
        Form::Copied
    } else if is_float || !mix::is_quantizable(&tensor.name, &tensor.shape) {
        Form::Exact(wanted)
    } else {
        Form::Rounded(wanted)
    }
}

/// Returns the pieces of all tensors, in order.
pub(super) fn pieces(tensors: &[Tensor]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let (row, rows) = tensor.rows();
        let step = (PIECE / row.max(1)).max(1);
        let mut start = 0;
        while start < rows {
            let end = rows.min(start.saturating_add(step));
            pieces.push(Piece { tensor: number, rows: start..end });
            start = end;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[u64], stored: Option<TensorType>) -> Tensor {
        Tensor { name: name.to_owned(), shape: shape.to_vec(), stored }
    }

    #[test]
    fn pieces_cover_every_row_once_and_are_bounded() {
        let tensors = [
            tensor("a.weight", &[4096, 100], None),
            tensor("b.bias", &[300_000], None),
            tensor("c.weight", &[1 << 20, 3], None),
        ];
        let pieces = pieces(&tensors);
        for (number, tensor) in tensors.iter().enumerate() {
            let (row, rows) = tensor.rows();
            let own: Vec<&Piece> = pieces.iter().filter(|piece| piece.tensor == number).collect();
            assert_eq!(own.first().map(|piece| piece.rows.start), Some(0));
            assert_eq!(own.last().map(|piece| piece.rows.end), Some(rows));
            assert!(own.windows(2).all(|pair| pair[0].rows.end == pair[1].rows.start));
            let longest = own.iter().map(|piece| (piece.rows.end - piece.rows.start) * row).max();
            assert!(longest <= Some(PIECE.max(row)));
        }
    }

    #[test]
    fn what_a_gguf_has_already_is_copied() {
        let stored = tensor("blk.0.attn_q.weight", &[256, 4], Some(TensorType::Q8_0));
        assert_eq!(form(&stored, TensorType::Q8_0, false), Form::Copied);
        assert_eq!(form(&stored, TensorType::Q4_0, false), Form::Rounded(TensorType::Q4_0));
        let norm = tensor("blk.0.attn_norm.weight", &[256], None);
        assert_eq!(form(&norm, TensorType::F32, false), Form::Exact(TensorType::F32));
        let matrix = tensor("blk.0.attn_q.weight", &[256, 4], None);
        assert_eq!(form(&matrix, TensorType::F16, true), Form::Exact(TensorType::F16));
        assert_eq!(form(&matrix, TensorType::F16, false), Form::Rounded(TensorType::F16));
    }
}
