use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatDelta, ChatReply, ChunkChoice, FinishReason, Usage,
};

fn gathered(endpoint: Endpoint, events: impl IntoIterator<Item = Value>) -> Value {
    let mut gathered = Gathered::default();
    for event in events {
        let Value::Object(event) = event else { panic!("{event} is no event") };
        gathered.add(event).unwrap();
    }
    gathered.finish(endpoint).unwrap()
}

/// One event with one choice.
fn delta(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

#[test]
fn texts_are_joined_and_the_last_word_on_all_else_stands() {
    let event = |choices: Value| json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m", "system_fingerprint": "f", "usage": null, "obfuscation": "xxxx", "choices": choices});
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let mut last = event(json!([]));
    last["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    let answer = gathered(
        Endpoint::Chat,
        [
            event(choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null)),
            event(choice(json!({"content": "Pa"}), Value::Null)),
            event(choice(json!({"content": "ris 🦀"}), Value::Null)),
            event(choice(json!({}), json!("stop"))),
            last,
        ],
    );
    assert_eq!(
        answer,
        json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m", "system_fingerprint": "f",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Paris 🦀", "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        })
    );
}

#[test]
fn text_completions_keep_their_log_probabilities() {
    let event = |text: &str, offset: u32, finish: Value| {
        json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": finish,
            "logprobs": {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}], "text_offset": [offset]}}]})
    };
    let answer =
        gathered(Endpoint::Completions, [event("a", 0, Value::Null), event(" b", 1, json!("length"))]);
    assert_eq!(
        answer,
        json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "a b", "finish_reason": "length",
            "logprobs": {"tokens": ["a", " b"], "token_logprobs": [-0.5, -0.5], "top_logprobs": [{"a": -0.5}, {" b": -0.5}], "text_offset": [0, 1]}}]})
    );
}

#[test]
fn a_chats_log_probabilities_are_one_list() {
    let event = |token: &str| json!({"choices": [{"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token, "logprob": -1.0, "top_logprobs": []}], "refusal": null}}]});
    let answer = gathered(Endpoint::Chat, [event("a"), event("b")]);
    let tokens: Vec<&Value> =
        answer["choices"][0]["logprobs"]["content"].as_array().unwrap().iter().map(|t| &t["token"]).collect();
    assert_eq!(tokens, ["a", "b"]);
    assert_eq!(answer["choices"][0]["finish_reason"], Value::Null);
}

#[test]
fn several_choices_that_come_mixed_are_sorted_out() {
    let event = |index: u32, text: &str| json!({"choices": [{"index": index, "delta": {"content": text}}]});
    let answer = gathered(Endpoint::Chat, [event(1, "x"), event(0, "a"), event(1, "y"), event(0, "b")]);
    let texts: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["index"], &c["message"]["content"]))
        .collect();
    assert_eq!(texts, [(&json!(0), &json!("ab")), (&json!(1), &json!("xy"))]);
}

#[test]
fn calls_of_tools_are_joined_by_their_index() {
    let piece = |call: Value| delta(&json!({"tool_calls": [call]}));
    let answer = gathered(
        Endpoint::Chat,
        [
            delta(&json!({"role": "assistant", "content": null, "tool_calls": null})),
            piece(
                json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "time", "arguments": ""}}),
            ),
            delta(&json!({"content": null, "tool_calls": null})),
            piece(json!({"index": 0, "function": {"arguments": "{\"zone\":"}})),
            piece(
                json!({"index": 1, "id": "call_b", "type": "function", "function": {"name": "rain", "arguments": "{}"}}),
            ),
            piece(json!({"index": 0, "function": {"arguments": "\"CET\"}"}})),
        ],
    );
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "time", "arguments": "{\"zone\":\"CET\"}"}},
            {"id": "call_b", "type": "function", "function": {"name": "rain", "arguments": "{}"}},
        ]})
    );
}

#[test]
fn calls_that_are_numbered_wrongly_or_not_at_all_are_told_apart_by_their_ids() {
    for index in [json!({"index": 0}), json!({})] {
        let piece = |id: Option<&str>, arguments: &str| {
            let mut call = index.clone();
            call["function"] = json!({"arguments": arguments});
            if let Some(id) = id {
                call["id"] = id.into();
            }
            delta(&json!({"role": "assistant", "content": "", "tool_calls": [call]}))
        };
        let events = [
            piece(Some("a"), "{"),
            piece(None, "}"),
            piece(Some("b"), "["),
            piece(Some("b"), "1"),
            piece(None, "]"),
        ];
        let answer = gathered(Endpoint::Chat, events);
        let message = &answer["choices"][0]["message"];
        let calls: Vec<_> = message["tool_calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| (call["id"].as_str().unwrap(), call["function"]["arguments"].as_str().unwrap()))
            .collect();
        assert_eq!(calls, [("a", "{}"), ("b", "[1]")]);
        assert_eq!(message["role"], "assistant");
    }
}

#[test]
fn thoughts_are_joined_beside_the_text() {
    let events = [
        delta(&json!({"reasoning_content": "hm"})),
        delta(&json!({"reasoning_content": "m", "content": null})),
        delta(&json!({"content": "yes"})),
    ];
    let message = &gathered(Endpoint::Chat, events)["choices"][0]["message"];
    assert_eq!(*message, json!({"role": "assistant", "content": "yes", "reasoning_content": "hmm"}));
}

#[test]
fn a_message_without_any_text_has_an_empty_one() {
    let answer = gathered(Endpoint::Chat, [delta(&json!({"role": "assistant"}))]);
    assert_eq!(answer["choices"][0]["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(gathered(Endpoint::Completions, [json!({"choices": [{}]})])["choices"][0]["text"], "");
    assert!(Gathered::default().finish(Endpoint::Chat).is_none());
}

#[test]
fn an_answer_that_never_ends_is_given_up_before_it_fills_the_memory() {
    let text = "x".repeat(1 << 16);
    let floods: [fn(&str, usize) -> Value; 4] = [
        |text, _| delta(&json!({"content": text})),
        |text, n| json!({"choices": [{"index": n, "delta": {}, "text": text}]}),
        |text, n| json!({n.to_string(): text, "choices": []}),
        |text, n| delta(&json!({"tool_calls": [{"index": n, "function": {"name": text}}]})),
    ];
    for flood in floods {
        let mut gathered = Gathered::default();
        let taken = (0..10_000).find(|n| {
            let Value::Object(event) = flood(&text, *n) else { panic!() };
            gathered.add(event).is_err()
        });
        let taken = taken.unwrap() << 16;
        assert!((MOST_KEPT - (1 << 20)..=MOST_KEPT).contains(&taken), "{taken}");
    }
}

/// Takes one event with these pieces of calls.
fn with_calls(calls: &[Value]) -> (Result<(), Reason>, Gathered) {
    let mut gathered = Gathered::default();
    let Value::Object(event) = delta(&json!({"tool_calls": calls})) else { panic!() };
    (gathered.add(event), gathered)
}

fn calls_of(gathered: &Gathered) -> usize {
    gathered.choices[&0].message["tool_calls"].as_array().unwrap().len()
}

#[test]
fn an_event_of_more_calls_than_any_answer_has_is_given_up() {
    let numbered: Vec<Value> = (0..65_000).map(|n| json!({"index": n})).collect();
    let (taken, gathered) = with_calls(&numbered);
    assert_eq!((taken.is_err(), calls_of(&gathered)), (true, MOST_CALLS));
    let (taken, gathered) = with_calls(&[&numbered[..MOST_CALLS], &numbered[..MOST_CALLS]].concat());
    assert_eq!((taken.is_ok(), calls_of(&gathered)), (true, MOST_CALLS), "pieces of them may be more");
    let inside = json!({"index": 0, "tool_calls": numbered});
    assert!(with_calls(&[inside.clone(), inside]).0.is_err());
}

#[test]
fn what_one_event_has_is_kept_no_longer_than_there_is_room() {
    let text = "x".repeat(1 << 20);
    let numbered: Vec<Value> = (0..24).map(|n| json!({"index": n, "name": text})).collect();
    let (taken, gathered) = with_calls(&numbered);
    assert_eq!((taken.is_err(), calls_of(&gathered)), (true, MOST_KEPT >> 20));
    let (taken, gathered) = with_calls(&vec![json!({"index": 0, "arguments": text}); 24]);
    assert!(taken.is_err() && gathered.kept < MOST_KEPT + (2 << 20), "{}", gathered.kept);
}

#[test]
fn what_is_repeated_in_every_event_is_kept_once() {
    let mut gathered = Gathered::default();
    let note = "x".repeat(1 << 16);
    for _ in 0..1000 {
        let event = json!({"note": note, "choices": [{"index": 0, "note": note, "delta": {"role": "assistant", "content": "x"}}]});
        let Value::Object(event) = event else { panic!() };
        gathered.add(event).unwrap();
    }
    assert!(gathered.kept < 1 << 18, "{}", gathered.kept);
}

fn usage() -> impl Strategy<Value = Usage> {
    (0u32..1000, 0u32..1000).prop_map(|(prompt, answer)| Usage::new(prompt, answer))
}

proptest! {
    #[test]
    fn however_a_text_is_cut_the_whole_is_the_same(pieces in prop::collection::vec("\\PC{0,5}", 0..20), usage in usage()) {
        let chunk = |choice: Option<(ChatDelta, Option<FinishReason>)>, usage| ChatChunk {
            id: "chatcmpl-1".to_owned(),
            object: "chat.completion.chunk".to_owned(),
            created: 7,
            model: "m".to_owned(),
            choices: choice.into_iter().map(|(delta, finish_reason)| ChunkChoice { index: 0, delta, logprobs: None, finish_reason }).collect(),
            usage,
            timings: None,
            progress: None,
        };
        let text = |role: Option<&str>, text: &str| ChatDelta { role: role.map(str::to_owned), content: Some(text.to_owned()), ..ChatDelta::default() };
        let mut chunks = vec![chunk(Some((text(Some("assistant"), ""), None)), None)];
        chunks.extend(pieces.iter().map(|piece| chunk(Some((text(None, piece), None)), None)));
        chunks.push(chunk(Some((ChatDelta::default(), Some(FinishReason::Length))), None));
        chunks.push(chunk(None, Some(usage)));
        let reply = ChatReply {
            id: "chatcmpl-1".to_owned(),
            object: "chat.completion".to_owned(),
            created: 7,
            model: "m".to_owned(),
            choices: vec![ChatChoice {
                index: 0,
                message: AssistantMessage { role: "assistant".to_owned(), content: Some(pieces.concat()), ..AssistantMessage::default() },
                logprobs: None,
                finish_reason: Some(FinishReason::Length),
            }],
            usage,
            timings: None,
        };
        let events = chunks.iter().map(|chunk| serde_json::to_value(chunk).unwrap());
        prop_assert_eq!(gathered(Endpoint::Chat, events), serde_json::to_value(&reply).unwrap());
    }
}
