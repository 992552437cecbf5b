use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::engine::tail::Tail;

/// How answers are read.
#[derive(Debug, Clone, Default)]
struct Reader {
    /// What the model's template has of tools.
    tools: Option<&'static str>,
    many_calls: bool,
    thinks: bool,
    /// Whether the prompt ends within a thought.
    is_thinking: bool,
    stops: Vec<String>,
}

impl Reader {
    fn form(&self, begun: Option<&str>) -> Form {
        let syntax = self.tools.and_then(|sign| Syntax::of(&format!("{{{{ tools }}}} {sign}")));
        let prompt = if self.is_thinking { "<think>" } else { "" };
        Form {
            kind: Kind::Chat,
            model: "m".to_owned(),
            is_stream: true,
            include_usage: false,
            choices: 1,
            thoughts: if self.thinks { Thoughts::behind(prompt, "<think>") } else { None },
            calls: syntax.map(|syntax| Calls { syntax, many: self.many_calls }),
            has_logprobs: false,
            begun: begun.map(str::to_owned),
            has_progress: true,
        }
    }

    /// Returns the events of an answer of which `begun` is written, and the rest comes in these pieces.
    fn events(&self, begun: Option<&str>, pieces: &[&[u8]]) -> Vec<Value> {
        let mut reply = Reply::new(self.form(begun));
        let mut tail = Tail::new(self.stops.clone());
        let mut bytes = Vec::new();
        let mut take = |event| {
            if let Some(piece) = reply.take((0, event)).unwrap() {
                bytes.extend(reply.chunks(Some(piece)));
            }
        };
        let text = |text| Event::Text { text, tokens: Vec::new(), told: 1, asked: 1 };
        for piece in pieces {
            let pushed = tail.push(piece);
            if !pushed.text.is_empty() {
                take(text(pushed.text));
            }
            if pushed.is_stopped {
                break;
            }
        }
        let rest = tail.finish();
        if !rest.is_empty() {
            take(text(rest));
        }
        let (finish, usage, timings) = (FinishReason::Stop, Usage::default(), Timings::default());
        take(Event::End { finish, usage, timings });
        let mut scanner = sse::Scanner::default();
        scanner.push(&bytes);
        let mut events: Vec<String> = std::iter::from_fn(|| scanner.next().unwrap()).collect();
        assert_eq!(events.pop().as_deref(), Some(sse::DONE));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

/// What a client makes of events: what was thought, what was said, the calls, the end, and how often it was told a role.
type Heard = (String, String, Vec<(u64, String)>, Option<String>, usize);

fn hear(events: &[Value]) -> Heard {
    let mut heard = Heard::default();
    for event in events {
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        heard.0.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        heard.1.push_str(delta["content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            heard.2.push((call["index"].as_u64().unwrap(), call["function"].to_string()));
        }
        heard.3 = heard.3.or_else(|| choice["finish_reason"].as_str().map(str::to_owned));
        heard.4 += usize::from(delta.get("role").is_some());
    }
    heard
}

/// Checks that an answer that breaks off after each of its events, and is gone on with, is the one that does not.
fn check(reader: &Reader, answer: &str, size: usize, other_size: usize) {
    let pieces: Vec<&[u8]> = answer.as_bytes().chunks(size).collect();
    let whole = reader.events(None, &pieces);
    let expected = hear(&whole);
    // the event with the end leaves nothing to go on with
    for cut in 1..whole.len() {
        let told = &whole[..cut];
        let progress = told.iter().filter_map(|event| event["bramble_progress"]["text"].as_str());
        let begun: String = progress.collect();
        let rest = answer.strip_prefix(&begun).expect("only what the model wrote is told");
        let rest: Vec<&[u8]> = rest.as_bytes().chunks(other_size).collect();
        // before a word of it was told, it is begun anew, and the router drops the second role
        let events = reader.events(Some(&begun), &rest);
        let heard = hear(&told.iter().cloned().chain(events).collect::<Vec<_>>());
        assert_eq!(heard, expected, "cut after {cut} events, behind {begun:?} of {answer:?} in {whole:#?}");
    }
}

#[test]
fn the_answer_is_continued_without_repeating_or_losing_a_character() {
    let plain = Reader::default();
    let stops = Reader { stops: vec!["</end>".to_owned(), "aab".to_owned()], ..plain.clone() };
    let thinks = Reader { thinks: true, ..plain.clone() };
    let thinking = Reader { is_thinking: true, ..thinks.clone() };
    let tools = |sign| Reader { tools: Some(sign), many_calls: true, thinks: true, ..Reader::default() };
    let hermes = "Well. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"é<\"}}\n</tool_call>\n\
        <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>\n and <tool_call>no call</tool_call> <tool_c";
    let list = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}, {\"name\": \"g\"}]";
    let named = "So: [TOOL_CALLS]f[CALL_ID]call00000[ARGS]{\"a\": 1}[TOOL_CALLS]g{}";
    let phi = "<|tool_call|>[{\"name\": \"f\", \"arguments\": \"{}\"}, {\"name\": \"g\"}]<|/tool_call|> x 🦀";
    let llama = " {\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
    for (reader, answer) in [
        (&plain, "naïve 🦀 and so on"),
        (&stops, "aaac <</end </en d é</end> never"),
        (&thinks, "<think>\n Hm. é <b> \n\n So.\n</think>\n\nYes. <think>"),
        (&thinks, " no thought <thin"),
        (&thinking, "Hm. </thi nk> </think> Yes."),
        (&thinking, "Hm to the end </thin"),
        (&tools("<tool_call>"), hermes),
        (&Reader { many_calls: false, ..tools("<tool_call>") }, hermes),
        (&tools("<tool_call>"), &format!("<think>a </think> {hermes}")),
        (&tools("[TOOL_CALLS]"), list),
        (&tools("[TOOL_CALLS][ARGS]"), named),
        (&tools("<|tool_call|>"), phi),
        (&tools("\"parameters\""), llama),
        (&tools("\"parameters\""), " {\"a\": 1} is no call"),
    ] {
        for size in [1, 2, 3, 7, 1000] {
            check(reader, answer, size, 1);
            check(reader, answer, size, 5);
        }
    }
}

#[test]
fn half_a_character_that_comes_with_a_stop_string_is_not_told() {
    let reader = Reader { stops: vec!["</".to_owned()], ..Reader::default() };
    check(&reader, "<tool_c<tool_c</thié", 1, 5);
}

#[test]
fn pieces_of_one_token_are_one_event_so_that_no_cut_falls_between_them() {
    let reader = Reader { tools: Some("<tool_call>"), many_calls: true, thinks: true, ..Reader::default() };
    let answer =
        "<think>a</think>b<tool_call>{\"name\": \"f\"}</tool_call>c<tool_call>{\"name\": \"g\"}</tool_call>";
    // the role, all of it, and the end
    let events = reader.events(None, &[answer.as_bytes()]);
    assert_eq!(events.len(), 3, "{events:#?}");
    assert_eq!(events[1]["bramble_progress"]["text"], answer);
    let (thought, said, calls, finish, roles) = hear(&events);
    assert_eq!((thought.as_str(), said.as_str(), calls.len(), roles), ("a", "bc", 2, 1));
    assert_eq!(finish.as_deref(), Some("tool_calls"));
}

fn reader() -> impl Strategy<Value = Reader> {
    let signs =
        [None, Some("<tool_call>"), Some("[TOOL_CALLS]"), Some("[TOOL_CALLS][ARGS]"), Some("\"parameters\"")];
    let stops = prop::collection::vec("[ab<é]{1,3}|</", 0..2);
    (prop::sample::select(signs.to_vec()), any::<bool>(), any::<bool>(), any::<bool>(), stops).prop_map(
        |(tools, many_calls, thinks, is_thinking, stops)| Reader {
            tools,
            many_calls,
            thinks,
            is_thinking,
            stops,
        },
    )
}

proptest! {
    #[test]
    fn wherever_an_answer_breaks_off_what_is_told_in_all_is_the_same(
        reader in reader(),
        answer in "(<think>|</think>|<tool_call>|</tool_call>|\\[TOOL_CALLS\\]|\\{\"name\": \"f\"\\}|</thi|<tool_c|[ab< \n{é🦀]){0,14}",
        size in 1usize..6,
        other_size in 1usize..6,
    ) {
        check(&reader, &answer, size, other_size);
    }
}
