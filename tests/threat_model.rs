//! The threat model names tests; each of them is there, and no claim stands without one.

use std::fs;
use std::path::Path;

/// The words of a text that stand in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says what is wrong with a test's name: `src/room/tests.rs::name`, or the path of a story.
fn fault(name: &str) -> Option<String> {
    let (path, test) = name.split_once("::").unwrap_or((name, ""));
    let Ok(source) = fs::read_to_string(root().join(path)) else {
        return Some(format!("there is no {path}"));
    };
    if test.is_empty() {
        return None;
    }
    let Some(at) = source.find(&format!("fn {test}(")) else { return Some(format!("{path} has no {test}")) };
    // the attribute is a few lines before, with others between at most
    let before: Vec<&str> = source[..at].lines().rev().take(6).collect();
    let end = before.iter().skip(1).position(|line| line.starts_with('}')).unwrap_or(before.len());
    let is_test = before.iter().take(end + 1).any(|line| line.contains("test]") || line.contains("test("));
    let is_law = source[..at].contains("proptest! {");
    (!is_test && !is_law).then(|| format!("{name} is no test"))
}

#[test]
fn every_claim_names_a_test_that_is_there() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (mut rows, mut named) = (0, 0);
    for (number, line) in page.lines().enumerate() {
        let number = number + 1;
        let tests: Vec<&str> =
            quoted(line).filter(|word| word.contains(".rs::") || word.starts_with("tests/e2e/")).collect();
        for test in &tests {
            assert_eq!(fault(test), None, "line {number}");
            named += 1;
        }
        let is_claim =
            line.starts_with("| ") && !line.starts_with("| attack ") && !line.starts_with("| --- ");
        if is_claim {
            rows += 1;
            assert!(!tests.is_empty() || line.contains("not shown: "), "line {number} names no test: {line}");
        }
    }
    assert!(rows > 30 && named > rows, "{rows} claims and {named} tests were found");
}

#[test]
fn what_is_not_there_is_found_out() {
    assert!(fault("src/ids.rs::no_such_test").is_some());
    assert!(fault("src/nowhere.rs::no_such_test").is_some());
    assert!(fault("src/terminal.rs::line").is_some(), "a function is no test");
    assert!(fault("tests/e2e/stories/00-none.sh").is_some());
    assert_eq!(fault("tests/threat_model.rs::what_is_not_there_is_found_out"), None);
}
