//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Fault::TooLarge { value: 70000.0, kind: TensorType::Q4K },
        Fault::NotFinite(TensorType::Q4K),
        Fault::WithoutLlama(TensorType::Q4K),
        Fault::Shape { row: 12, kind: TensorType::Q4K },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
