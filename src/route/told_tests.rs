use super::*;
use crate::openai::Progress;

fn terms() -> Terms {
    Terms { is_single: true, is_plain: true, has_usage: true, ..Terms::default() }
}

fn event(fields: Value, written: Option<(&str, u32)>) -> Event {
    let Value::Object(fields) = fields else { panic!("{fields}") };
    let progress = written.map(|(text, tokens)| Progress { text: text.to_owned(), tokens, prompt_tokens: 5 });
    Event { data: Value::Object(fields.clone()).to_string(), fields, progress }
}

fn delta(delta: &Value, written: Option<(&str, u32)>) -> Event {
    event(json!({"id": "a", "choices": [{"index": 0, "delta": delta}]}), written)
}

#[test]
fn plain_text_is_what_was_said_as_it_was_written() {
    let mut told = Told::new(terms(), true);
    told.tell(delta(&json!({"role": "assistant", "content": ""}), None));
    // half a mark is written and not said yet
    told.tell(delta(&json!({"content": "one"}), Some(("one <tool", 3))));
    assert_eq!((told.written(Kind::Host), told.written(Kind::Foreign)), (Some("one <tool"), Some("one")));
    told.tell(delta(&json!({"content": " <tools"}), Some(("s", 4))));
    assert_eq!(
        (told.written(Kind::Host), told.written(Kind::Foreign)),
        (Some("one <tools"), Some("one <tools"))
    );
    assert_eq!(told.tokens(), 4);
    // blanks that are left out make it another text
    told.tell(delta(&json!({"content": "two"}), Some(("  two", 5))));
    assert_eq!((told.written(Kind::Host), told.written(Kind::Foreign)), (Some("one <tools  two"), None));
}

#[test]
fn what_is_not_text_is_known_to_our_own_engines_alone() {
    for (more, ours, known) in [
        (json!({"reasoning_content": "Hm"}), Some(("Hm", 2)), true),
        (json!({"reasoning_content": "Hm"}), None, false),
        (json!({"reasoning_content": "", "tool_calls": [], "content": "x"}), None, true),
        (json!({"tool_calls": [{"index": 0}]}), Some(("", 2)), true),
        (json!({"refusal": "no"}), None, false),
    ] {
        let mut told = Told::new(terms(), true);
        told.tell(delta(&more, ours));
        assert_eq!(told.written(Kind::Local).is_some(), known, "{more}");
        assert_eq!(told.written(Kind::Foreign).is_some(), more["content"] == "x", "{more}");
    }
}

#[test]
fn no_more_is_kept_than_there_is_room_for_and_nothing_where_nobody_goes_on() {
    let mut told = Told::new(terms(), true);
    let long = "x".repeat(MOST_WRITTEN);
    assert!(told.tell(delta(&json!({"content": &long}), None)).is_some());
    assert_eq!((told.kept(), told.is_known()), (MOST_WRITTEN, true));
    assert!(told.tell(delta(&json!({"content": "x"}), None)).is_some(), "it is passed on all the same");
    assert_eq!((told.kept(), told.is_known()), (0, false));
    let mut several = Told::new(Terms { is_single: false, ..terms() }, true);
    let mut unkept = Told::new(terms(), false);
    for told in [&mut several, &mut unkept] {
        told.tell(delta(&json!({"content": "x"}), None));
        assert_eq!((told.kept(), told.is_known()), (0, false));
    }
}

#[test]
fn the_rest_is_made_to_fit_the_answer_that_the_client_has() {
    let mut told = Told::new(terms(), true);
    let head = |id: &str, delta: Value| json!({"id": id, "object": "o", "created": id.len(), "model": "m", "choices": [{"index": 0, "delta": delta}]});
    let first = head("a", json!({"role": "assistant", "content": "one"}));
    assert_eq!(
        told.tell(event(first.clone(), None)),
        Some(first.to_string()),
        "what comes first stays as it is"
    );
    told.go_on(Kind::Foreign);
    assert_eq!(told.tell(event(head("other", json!({"role": "assistant", "content": ""})), None)), None);
    let next = told.tell(event(head("other", json!({"role": "assistant", "content": " two"})), None));
    assert_eq!(next, Some(head("a", json!({"content": " two"})).to_string()));
    let used = |prompt: u32, answer: u32| json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}});
    // one token of two events is in its prompt
    assert_eq!(told.tell(event(used(9, 4), None)), Some(used(8, 5).to_string()));
    assert_eq!(told.tokens(), 5);
}

#[test]
fn the_ending_has_what_is_missing_and_no_more() {
    let text = |told: &Told| String::from_utf8(told.ending()).unwrap();
    let mut told = Told::new(terms(), true);
    told.tell(event(
        json!({"id": "a", "object": "text_completion", "choices": [{"index": 0, "text": "x"}]}),
        Some(("x", 1)),
    ));
    let head = r#"data: {"id":"a","object":"text_completion","choices":"#;
    let usage = r#"[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}"#;
    assert_eq!(
        text(&told),
        format!(
            "{head}[{{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}}]}}\n\n{head}{usage}\n\ndata: [DONE]\n\n"
        )
    );
    told.tell(event(json!({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}), Some(("", 1))));
    assert!(told.is_finished());
    assert_eq!(text(&told), format!("{head}{usage}\n\ndata: [DONE]\n\n"));
    told.tell(event(json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}), None));
    assert_eq!(text(&told), "data: [DONE]\n\n");
}
