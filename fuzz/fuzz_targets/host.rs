#![no_main]

#[path = "../../tests/support/foreign.rs"]
#[expect(dead_code, reason = "each target reads one format")]
mod foreign;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foreign::host(bytes));
