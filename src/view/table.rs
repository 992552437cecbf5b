use textwrap::core::display_width;

use super::wrap::{widest_piece, wrap_cell};
use crate::terminal::COLOURS;

/// How text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether ANSI colours are used.
    pub is_coloured: bool,
    /// The columns that there are; none where lines may be as long as they are.
    pub width: Option<usize>,
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

/// Spaces between two columns.
const GAP: usize = 2;
/// A column is not made narrower than this where others can give way.
const NARROWEST: usize = 8;
/// What the columns that have no room on a row's first line are indented by.
const BELOW: usize = 4;

/// In fewer columns, a row on one line is worth more than all of its cells.
const NARROW: usize = 60;

/// Rows of cells, aligned by column.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

/// Columns that share a line, with their widths and those that they are not made narrower than.
#[derive(Debug)]
struct Band {
    indent: usize,
    widths: Vec<usize>,
    least: Vec<usize>,
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

    /// Leaves columns out, by their numbers and the first of `least` first, until a row has room on a line of its own.
    pub fn narrow(&mut self, indent: usize, least: &[usize], style: Style) {
        let width = style.width.unwrap_or(usize::MAX);
        let mut left: Vec<usize> = (0..self.rows.first().map_or(0, Vec::len)).collect();
        for column in least {
            let natural: Vec<usize> = (0..left.len()).map(|at| self.widest(at, display_width)).collect();
            let is_cut = width < NARROW && indent + total(&natural) > width;
            if !is_cut && self.bands(indent, width).len() == 1 {
                return;
            }
            if let Some(at) = left.iter().position(|one| one == column) {
                left.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
    }

    /// Returns whether a column was not left out.
    pub fn has(&self, heading: &str) -> bool {
        self.rows.first().is_some_and(|row| row.iter().any(|cell| cell == heading))
    }

    /// Returns the lines, each with `indent` spaces before it. Colours are counted as no width.
    ///
    /// Where they are wider than the style has columns, the widest cells are cut between words; where that is not
    /// enough, the last columns go on lines of their own below the first ones.
    pub fn render(&self, indent: usize, style: Style) -> String {
        let mut text = String::new();
        let bands = self.bands(indent, style.width.unwrap_or(usize::MAX));
        for row in &self.rows {
            let mut cells = row.iter();
            for (number, band) in bands.iter().enumerate() {
                let cells = cells.by_ref().take(band.widths.len());
                let cells: Vec<_> = cells.map(String::as_str).zip(&band.widths).collect();
                // below the first ones, nothing to say is no line
                if number == 0 || cells.iter().any(|(cell, _)| !cell.is_empty()) {
                    band.line(&cells, &mut text);
                }
            }
        }
        text
    }

    /// Returns the widths of columns, by the lines that they share.
    fn bands(&self, indent: usize, width: usize) -> Vec<Band> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut bands = Vec::new();
        let mut band = Band { indent, widths: Vec::new(), least: Vec::new() };
        let mut first = 0;
        for column in 0..columns {
            let natural = self.widest(column, display_width);
            let piece = self.widest(column, widest_piece).max(natural.min(NARROWEST));
            // whose row it is stays in one piece
            let piece = if column == 0 { natural.min(width / 2) } else { piece };
            if !band.least.is_empty() && band.indent + total(&band.least) + GAP + piece > width {
                bands.push(self.fitted(band, first, width));
                band = Band { indent: indent + BELOW, widths: Vec::new(), least: Vec::new() };
                first = column;
            }
            band.widths.push(natural);
            band.least.push(piece);
        }
        bands.push(self.fitted(band, first, width));
        bands
    }

    fn widest(&self, column: usize, width: impl Fn(&str) -> usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| width(cell)).max().unwrap_or(0)
    }

    /// Makes the columns from `first` on as narrow as they have to be. What one that is cut does not use, since words
    /// are as long as they are, is for the others.
    fn fitted(&self, mut band: Band, first: usize, width: usize) -> Band {
        let mut wished = band.widths.clone();
        loop {
            band.widths.clone_from(&wished);
            band.shrink(width);
            let idle = |column: usize| {
                let given = band.widths[column];
                let lines = |cell: &str| wrap_cell(cell, given).iter().map(|line| display_width(line)).max();
                let used = self.widest(first + column, |cell| lines(cell).unwrap_or(0));
                (given < wished[column] && used < given).then_some((given - used, column, used))
            };
            // one after another: what the first leaves may be all that the next one lacks
            let Some((_, column, used)) = (0..wished.len()).filter_map(idle).max() else { return band };
            wished[column] = used;
        }
    }
}

impl Band {
    /// Takes from the widest columns until all fit.
    fn shrink(&mut self, width: usize) {
        let room = width.saturating_sub(self.indent).max(1);
        while total(&self.widths) > room {
            let columns = self.widths.iter_mut().zip(&self.least).filter(|(width, least)| **width > **least);
            // of those that are as wide, the last: names come first
            let Some((widest, _)) = columns.max_by_key(|(width, _)| **width) else { break };
            *widest -= 1;
        }
        // one alone that no piece of fits
        if let [only] = self.widths.as_mut_slice() {
            *only = (*only).min(room);
        }
    }

    /// Writes the cells of a row, on as many lines as the longest of them needs.
    fn line(&self, cells: &[(&str, &usize)], text: &mut String) {
        let cells: Vec<(Vec<String>, usize)> =
            cells.iter().map(|(cell, width)| (wrap_cell(cell, **width), **width)).collect();
        let height = cells.iter().map(|(lines, _)| lines.len()).max().unwrap_or(0);
        for number in 0..height {
            let mut line = " ".repeat(self.indent);
            for (lines, width) in &cells {
                let part = lines.get(number).map_or("", String::as_str);
                line.push_str(part);
                line.push_str(&" ".repeat(width.saturating_sub(display_width(part)) + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(width: usize) -> Style {
        Style { width: Some(width), ..Style::default() }
    }

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let style = Style { is_coloured: true, ..Style::default() };
        let mut table = Table::new(["HOST", "STATE"]);
        table.row(["kitchen".to_owned(), "ok".to_owned()]);
        table.row([style.bad("shed"), "down".to_owned()]);
        let all = "  HOST     STATE\n  kitchen  ok\n  \u{1b}[31mshed\u{1b}[0m     down\n";
        assert_eq!(table.render(2, style), all);
        assert_eq!(table.render(2, at(16)), all);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(["HOST", "STATE"]);
        table.row(["漢字".to_owned(), "ok".to_owned()]);
        assert_eq!(table.render(0, Style::default()), "HOST  STATE\n漢字  ok\n");
    }

    fn fleet(style: Style) -> Table {
        let mut table = Table::new(["HOST", "MACHINE", "DOOR", "MODELS"]);
        let machine = "Raspberry Pi 5 Model B Rev 1.0";
        let models = "chat Q4_K_M running, writer Q8_0 failed";
        table.row(["kitchen".to_owned(), machine.to_owned(), style.good("open"), models.to_owned()]);
        table.row(["shed".to_owned(), "-".to_owned(), "-".to_owned(), style.bad("writer failed")]);
        table
    }

    #[test]
    fn the_widest_cells_are_cut_first() {
        let table = fleet(Style::default());
        insta::assert_snapshot!(table.render(0, at(60)), @r"
        HOST     MACHINE                 DOOR  MODELS
        kitchen  Raspberry Pi 5 Model B  open  chat Q4_K_M running,
                 Rev 1.0                       writer Q8_0 failed
        shed     -                       -     writer failed
        ");
        insta::assert_snapshot!(table.render(0, at(40)), @r"
        HOST     MACHINE       DOOR  MODELS
        kitchen  Raspberry Pi  open  chat Q4_K_M
                 5 Model B           running,
                 Rev 1.0             writer Q8_0
                                     failed
        shed     -             -     writer
                                     failed
        ");
        assert_eq!(table.render(0, at(200)), table.render(0, Style::default()));
    }

    #[test]
    fn columns_without_room_stand_below() {
        let mut table = Table::new(["  QUANT", "FILE", "MEMORY", "LEFT", "TOK/S", "RANGE", "VERDICT"]);
        let row = ["> Q4_K_M", "900 MiB", "1.2 GiB*", "61 %", "4.5", "4.1 to 4.9", "borderline"];
        table.row(row.map(str::to_owned));
        table.row(["  Q2_K", "600 MiB", "800 MiB", "70 %", "5.5", "", ""].map(str::to_owned));
        assert_eq!(
            table.render(0, at(40)),
            "  QUANT   FILE     MEMORY    LEFT  TOK/S\n    RANGE       VERDICT\n> Q4_K_M  900 MiB  1.2 GiB*  61 %  4.5\n    4.1 to 4.9  borderline\n  Q2_K    600 MiB  800 MiB   70 %  5.5\n"
        );
    }

    #[test]
    fn columns_that_matter_least_are_left_out_where_a_row_has_no_room() {
        let narrow = |width| {
            let mut table = fleet(Style::default());
            table.narrow(0, &[1, 2], at(width));
            table.render(0, at(width))
        };
        assert_eq!(narrow(100), fleet(Style::default()).render(0, at(100)));
        insta::assert_snapshot!(narrow(59), @r"
        HOST     DOOR  MODELS
        kitchen  open  chat Q4_K_M running, writer Q8_0 failed
        shed     -     writer failed
        ");
        insta::assert_snapshot!(narrow(40), @r"
        HOST     MODELS
        kitchen  chat Q4_K_M running, writer
                 Q8_0 failed
        shed     writer failed
        ");
    }

    #[test]
    fn a_colour_is_on_every_line_of_its_cell() {
        let style = Style { is_coloured: true, width: Some(30) };
        let text = fleet(style).render(0, style);
        for line in text.lines() {
            assert_eq!(line.matches("\x1b[3").count(), line.matches("\x1b[0m").count(), "{line:?}");
        }
    }

    proptest! {
        /// Whatever is in it and however narrow it is, no line is wider, and no letter is lost.
        #[test]
        fn every_table_fits(
            rows in proptest::collection::vec(proptest::array::uniform5("[a-z0-9漢 ]{0,30}"), 1..5),
            indent in 0_usize..7, width in 24_usize..120,
        ) {
            let mut table = Table::new(["ONE", "TWO", "THREE", "FOUR", "FIVE"]);
            let mut letters: usize = "ONETWOTHREEFOURFIVE".len();
            for row in rows {
                letters += row.iter().flat_map(|cell| cell.chars()).filter(|c| *c != ' ').count();
                table.row(row);
            }
            let text = table.render(indent, at(width));
            for line in text.lines() {
                prop_assert!(display_width(line) <= width, "{} in {}:\n{}", display_width(line), width, text);
                prop_assert_eq!(line, line.trim_end());
            }
            prop_assert_eq!(text.chars().filter(|c| !c.is_whitespace()).count(), letters);
        }
    }
}
