//! Fits the rates of `src/facts/rates.csv` to published runs, and measures how well they
//! foretell runs that were left out.
//!
//! `cargo run --no-default-features --example fit_rates` prints figures, as `NAME = VALUE`;
//! with `--write` it also writes the table, with `--runs` it lists every run with its error.

mod figures;
mod fit;
mod judge;
mod models;
mod priors;
mod runs;
mod table;

use std::error::Error;
use std::path::Path;

#[expect(clippy::print_stdout, reason = "figures are what it is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let runs = runs::runs()?;
    if has("--write") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/facts/rates.csv");
        std::fs::write(path, table::text(&runs))?;
    }
    if has("--runs") {
        print!("{}", figures::list(&runs));
    }
    print!("{}", figures::figures(&runs));
    Ok(())
}
