//! Texts that a shell, `ssh` or systemd would read as more than a word.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Returns what a strategy draws for one number, always the same.
pub(crate) fn drawn<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, seed: u64) -> T {
    let config = Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() };
    strategy.new_tree(&mut TestRunner::new(config)).unwrap().current()
}

/// Texts of one to four parts, most of which make the file `canary` where they are run.
pub(crate) fn texts(canary: &Path) -> impl Strategy<Value = String> + use<> {
    let canary = canary.to_str().unwrap().to_owned();
    let runs = [
        "$(touch CANARY)",
        "`touch CANARY`",
        ";touch CANARY;",
        "\ntouch CANARY\n",
        "&touch CANARY&",
        "|touch CANARY|",
        "';touch CANARY;'",
        "'\\'';touch CANARY;'",
        "\";touch CANARY;\"",
        "\\';touch CANARY;",
        "')$(touch CANARY)('",
        ">CANARY",
        "-oProxyCommand=touch CANARY",
        "-oLocalCommand=touch${IFS}CANARY",
        "\n  ProxyCommand touch CANARY\n",
        "\nExecStart=/bin/touch CANARY\n",
        "${x:=`touch CANARY`}",
    ];
    let runs = prop::sample::select(runs.to_vec()).prop_map(move |text| text.replace("CANARY", &canary));
    let plain = [
        "a",
        "pi",
        "x.y",
        "_",
        "-",
        "--",
        " ",
        "'",
        "\"",
        "\\",
        "%h",
        "%%",
        "%n",
        "$HOME",
        "${IFS}",
        "~",
        ".",
        "/",
        "{a,b}",
        "*",
        "?",
        "[a]",
        "!",
        "#",
        "&",
        "|",
        "<",
        "(",
        ")",
        "=",
        "@",
        ":",
        ",",
        "\r",
        "\n",
        "\t",
        "\u{7f}",
        "\u{85}",
        "\u{1b}[2J",
        "\u{202e}",
        "é",
        "\u{0}",
    ];
    let parts = prop_oneof![2 => runs, 3 => prop::sample::select(plain.to_vec()).prop_map(str::to_owned)];
    prop::collection::vec(parts, 1..5).prop_map(|parts| parts.concat())
}
