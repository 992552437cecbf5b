//! Lines of what others say, of whom nobody knows how long they go on.

/// Lines out of bytes that come in pieces of any size.
#[derive(Debug)]
pub struct Lines {
    rest: Vec<u8>,
    longest: usize,
}

impl Lines {
    /// Returns none yet; each is to have at most `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self { rest: Vec::new(), longest }
    }

    /// Returns the lines that end in `bytes`, without their ends. What is too long is cut.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut whole = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = self.longest.saturating_sub(self.rest.len()).min(text.len());
            self.rest.extend_from_slice(&text[..room]);
            if is_end {
                whole.push(std::mem::take(&mut self.rest));
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_pieces_of_any_size_are_whole_again_and_long_ones_are_cut() {
        let text = b"one\n\nthree and more\nrest";
        for size in 1..=text.len() {
            let mut lines = Lines::new(8);
            let whole: Vec<Vec<u8>> = text.chunks(size).flat_map(|piece| lines.push(piece)).collect();
            assert_eq!(whole, [b"one".as_slice(), b"", b"three an"]);
        }
    }
}
