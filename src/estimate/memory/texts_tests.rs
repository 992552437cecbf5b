//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Refusal::PlainAttention,
        Refusal::HeadWidth { block: 7, width: 7 },
        Refusal::EncoderBlocks,
        Refusal::EncoderSlots { slots: 7 },
        Refusal::LongGraph,
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
