use std::fmt::Write as _;

use crate::terminal::COLOURS;

/// How text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether ANSI colours are used.
    pub is_coloured: bool,
}

impl Style {
    fn dress(self, code: &str, text: &str) -> String {
        debug_assert!(COLOURS.contains(&code), "it would not reach the terminal");
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What is good or new.
    pub fn good(self, text: &str) -> String {
        self.dress("32", text)
    }

    /// What failed or goes away.
    pub fn bad(self, text: &str) -> String {
        self.dress("31", text)
    }

    /// What changes or wants attention.
    pub fn warn(self, text: &str) -> String {
        self.dress("33", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.dress("2", text)
    }

    /// What a reader looks for.
    pub fn bold(self, text: &str) -> String {
        self.dress("1", text)
    }
}

/// Rows of cells, aligned by column.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts with a row of headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).to_vec()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Returns the lines, each with `indent` spaces before it. Colours are counted as no width.
    pub fn render(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| shown_width(cell))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width_of).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&widths) {
                let padding = width.saturating_sub(shown_width(cell));
                // writing to a String cannot fail
                let _ = write!(line, "{cell}{}  ", " ".repeat(padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Returns how many columns `cell` takes on a terminal, its colours left out.
fn shown_width(cell: &str) -> usize {
    let mut width = 0;
    let mut is_escape = false;
    for c in cell.chars() {
        match (is_escape, c) {
            (false, '\x1b') => is_escape = true,
            (false, _) => width += 1,
            (true, 'm') => is_escape = false,
            (true, _) => {}
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let style = Style { is_coloured: true };
        let mut table = Table::new(["HOST", "STATE"]);
        table.row(["kitchen".to_owned(), "ok".to_owned()]);
        table.row([style.bad("shed"), "down".to_owned()]);
        assert_eq!(table.render(2), "  HOST     STATE\n  kitchen  ok\n  \u{1b}[31mshed\u{1b}[0m     down\n");
    }
}
