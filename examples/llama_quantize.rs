//! llama.cpp's own quantizer as a program, to be measured beside: `llama_quantize IN OUT QUANT`.
#![expect(clippy::unwrap_used, reason = "what it shares with the tests may fail loudly")]

use std::path::Path;
use std::process::ExitCode;

use bramble_fleet::quant::Quant;

#[path = "../tests/support/stock.rs"]
mod stock;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, quant] = arguments.as_slice() else {
        return fail("usage: llama_quantize IN OUT QUANT");
    };
    let Ok(quant) = quant.parse::<Quant>() else { return fail("the third argument is no quant") };
    stock::quantize(Path::new(input), Path::new(output), quant, &[]);
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn fail(words: &str) -> ExitCode {
    eprintln!("{words}");
    ExitCode::FAILURE
}
