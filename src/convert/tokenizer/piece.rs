//! `tokenizer.model` and `spiece.model`: SentencePiece's own files.
//!
//! They are protocol buffers. What is needed of them are three messages with a dozen
//! fields, so they are read here: the crates that do bring a compiler of schemas along.

use super::Error;

/// How a model cuts words (`TrainerSpec.ModelType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelKind {
    /// The likeliest of all ways to cut.
    Unigram,
    /// Pairs that are merged, the best first.
    Bpe,
}

/// What a piece is (`SentencePiece.Type`). GGUF's kinds of tokens have the same numbers.
pub(super) const LAST_KIND: u64 = 6;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    /// As GGUF's `token_type`.
    pub(super) kind: i32,
}

/// A model, as far as it matters.
#[expect(clippy::struct_excessive_bools, reason = "as the file has them")]
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) kind: ModelKind,
    pub(super) pieces: Vec<Piece>,
    /// The compiled rules of how text is changed first.
    pub(super) charsmap: Vec<u8>,
    pub(super) adds_space: bool,
    pub(super) merges_spaces: bool,
    pub(super) escapes_spaces: bool,
    pub(super) marks_word_ends: bool,
    /// Numbers of `<unk>`, `<s>`, `</s>`, `<pad>`; negative where there is none.
    pub(super) unknown: i64,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) pad: i64,
}

impl Model {
    /// Reads the file called `name`.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        read(bytes).ok_or_else(|| {
            Error::Tokenizer(format!(
                "{name} is not a model of SentencePiece, or it is cut off: fetch it again"
            ))
        })
    }
}

/// The value of one field.
enum Field<'a> {
    /// Numbers, truth values, and names of a list.
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
    /// Eight bytes, of which none is needed.
    Wide,
}

/// The fields of a message, one after the other; none where the bytes make no sense.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next field with its number.
    fn next(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Wide)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

/// Reads a `ModelProto`; fields and defaults as in `sentencepiece_model.proto`.
fn read(bytes: &[u8]) -> Option<Model> {
    let mut model = Model {
        kind: ModelKind::Unigram,
        pieces: Vec::new(),
        charsmap: Vec::new(),
        adds_space: true,
        merges_spaces: true,
        escapes_spaces: true,
        marks_word_ends: false,
        unknown: 0,
        start: 1,
        end: 2,
        pad: -1,
    };
    let mut fields = Fields(bytes);
    while !fields.is_at_end() {
        let (number, field) = fields.next()?;
        match (number, field) {
            (1, Field::Bytes(message)) => model.pieces.push(piece(message)?),
            (2, Field::Bytes(message)) => trainer(message, &mut model)?,
            (3, Field::Bytes(message)) => normalizer(message, &mut model)?,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    (!model.pieces.is_empty()).then_some(model)
}

fn piece(message: &[u8]) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    let mut fields = Fields(message);
    while !fields.is_at_end() {
        let (number, field) = fields.next()?;
        match (number, field) {
            (1, Field::Bytes(text)) => std::str::from_utf8(text).ok()?.clone_into(&mut piece.text),
            (2, Field::Float(score)) if score.is_finite() => piece.score = score,
            (3, Field::Number(kind @ 1..=LAST_KIND)) => piece.kind = i32::try_from(kind).ok()?,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    Some(piece)
}

fn trainer(message: &[u8], model: &mut Model) -> Option<()> {
    let mut fields = Fields(message);
    while !fields.is_at_end() {
        let (number, field) = fields.next()?;
        let Field::Number(value) = field else { continue };
        // a negative number is written as its two's complement
        let signed = value.cast_signed();
        match number {
            3 => {
                model.kind = match value {
                    1 => ModelKind::Unigram,
                    2 => ModelKind::Bpe,
                    _ => return None,
                }
            }
            24 => model.marks_word_ends = value != 0,
            40 => model.unknown = signed,
            41 => model.start = signed,
            42 => model.end = signed,
            43 => model.pad = signed,
            _ => {}
        }
    }
    Some(())
}

fn normalizer(message: &[u8], model: &mut Model) -> Option<()> {
    let mut fields = Fields(message);
    while !fields.is_at_end() {
        let (number, field) = fields.next()?;
        match (number, field) {
            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
            (3, Field::Number(value)) => model.adds_space = value != 0,
            (4, Field::Number(value)) => model.merges_spaces = value != 0,
            (5, Field::Number(value)) => model.escapes_spaces = value != 0,
            (2..=5, _) => return None,
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn message(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = body.len();
        while length > 0x7f {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        out.extend(body);
        out
    }

    /// Writes a model file: `kind` as `TrainerSpec.ModelType`, normalizer as given.
    pub(crate) fn written(kind: u8, pieces: &[(&str, f32, u8)], normalizer: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (text, score, kind) in pieces {
            let mut body = message(1, text.as_bytes());
            body.push(2 << 3 | 5);
            body.extend(score.to_le_bytes());
            body.extend([3 << 3, *kind]);
            out.extend(message(1, &body));
        }
        out.extend(message(2, &[3 << 3, kind]));
        out.extend(message(3, normalizer));
        out
    }

    #[test]
    fn a_model_is_read_with_the_defaults_of_what_it_does_not_say() {
        let long = "x".repeat(300);
        let bytes = written(2, &[("<unk>", 0.0, 2), ("\u{2581}a", -1.5, 1), (&long, -2.0, 4)], &[4 << 3, 0]);
        let model = Model::parse("tokenizer.model", &bytes).unwrap();
        assert_eq!((model.kind, model.pieces.len()), (ModelKind::Bpe, 3));
        assert_eq!(model.pieces[1], Piece { text: "\u{2581}a".to_owned(), score: -1.5, kind: 1 });
        assert_eq!(model.pieces[2].text, long);
        assert_eq!((model.adds_space, model.merges_spaces, model.escapes_spaces), (true, false, true));
        assert_eq!((model.unknown, model.start, model.end, model.pad), (0, 1, 2, -1));
    }

    #[test]
    fn negative_numbers_are_read() {
        let mut bytes = written(1, &[("a", 0.0, 1)], &[]);
        let mut body = vec![0xc8, 0x02];
        body.extend([0xff; 9]);
        body.push(1);
        bytes.extend(message(2, &body));
        assert_eq!(Model::parse("m", &bytes).unwrap().start, -1);
    }

    #[test]
    fn bytes_that_make_no_sense_are_refused_wherever_they_end() {
        let bytes = written(1, &[("<unk>", 0.0, 2), ("a", -1.0, 1)], &[3 << 3, 1]);
        for end in 0..bytes.len() {
            // a cut between messages leaves a model without settings, which is one still
            let _ = Model::parse("m", &bytes[..end]);
        }
        let bad: [&[u8]; 6] =
            [b"", b"bm9uZQ== 0\n", &[0x0a, 0xff], &[0x0a; 40], &[0x80; 12], &[0x0a, 0x02, 0x08, 0x01]];
        for bytes in bad {
            let error = Model::parse("tokenizer.model", bytes).unwrap_err().to_string();
            assert!(error.contains("tokenizer.model"), "{error}");
        }
        let nan = written(1, &[("a", f32::NAN, 1)], &[]);
        assert!(Model::parse("m", &nan).is_err());
    }
}
