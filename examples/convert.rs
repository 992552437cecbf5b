//! Converts a checkpoint folder to a GGUF: `convert DIR OUT [F32|F16|BF16]`.

use std::path::Path;
use std::process::ExitCode;

use bramble_fleet::convert;
use bramble_fleet::quant::Quant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let float = arguments.get(2).map_or(Ok(Quant::F16), |name| name.parse());
    let ([dir, out, ..], Ok(float)) = (arguments.as_slice(), float) else {
        return fail("usage: convert DIR OUT [F32|F16|BF16]");
    };
    match convert::to_gguf(Path::new(dir), Path::new(out), float, |_| {}) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn fail(words: &str) -> ExitCode {
    eprintln!("{words}");
    ExitCode::FAILURE
}
