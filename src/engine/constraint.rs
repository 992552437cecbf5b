use std::collections::HashMap;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{Token, Vocabulary};
use crate::openai::Format;

/// The longest schema or grammar, in bytes as JSON. Those of real tools have a few KiB.
const MAX_GRAMMAR: usize = 256 << 10;

/// What may stand between the parts of JSON. Small models that may write blanks write nothing
/// else, until the context is full.
const BLANKS: &str = r"[ \n\t]{0,12}";

/// Most states of the automaton that reads words, at up to 2 kB each. Schemas that people have need some hundreds.
const MAX_STATES: usize = 16_000;

/// Marks the name of a control token in a word, as llguidance has it: no text holds this byte.
const CONTROL: u8 = 0xff;

/// Makes constraints for one vocabulary.
pub(super) struct Grammars {
    factory: ParserFactory,
    /// The control tokens by their names.
    control: HashMap<Vec<u8>, usize>,
}

/// What the rest of an answer must look like, as far as it has come. It says which tokens may
/// be next.
#[derive(Clone)]
pub(super) struct Constraint {
    matcher: Matcher,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("control", &self.control.len()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Prepares for `vocabulary`: some 100 ms and as many bytes as 20 times its text.
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        let number = |token: Token| u32::try_from(token).map_err(|error| error.to_string());
        let ends = vocabulary.ends.iter().map(|&token| number(token)).collect::<Result<Vec<_>, _>>()?;
        let first = *ends.first().ok_or("this model has no token that ends an answer")?;
        let words: Vec<Vec<u8>> = vocabulary
            .words
            .iter()
            .map(|word| {
                let marked = word.is_control && !word.bytes.is_empty();
                if marked { [&[CONTROL], word.bytes.as_slice()].concat() } else { word.bytes.clone() }
            })
            .collect();
        let size = u32::try_from(words.len()).map_err(|error| error.to_string())?;
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&ends);
        let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _))
            .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() =
            ParserLimits { max_lexer_states: MAX_STATES, verbose_errors: false, ..ParserLimits::default() };
        let control = vocabulary.words.iter().enumerate().filter(|(_, word)| word.is_control);
        let control = control.map(|(number, word)| (word.bytes.clone(), number)).collect();
        Ok(Self { factory, control })
    }

    /// Makes the constraint for `format`; none for plain text. The error says what is wrong with the schema.
    pub(super) fn format(&self, format: &Format) -> Result<Option<Constraint>, String> {
        match format {
            Format::Text => Ok(None),
            Format::JsonObject => self.schema(json!({"type": "object"}), true).map(Some),
            Format::JsonSchema { schema, is_strict } => self.schema(schema.clone(), *is_strict).map(Some),
        }
    }

    fn schema(&self, schema: Value, is_strict: bool) -> Result<Constraint, String> {
        self.compile(TopLevelGrammar::from_json_schema(with_options(schema, is_strict)))
    }

    /// Returns how a grammar names `mark`: the control token if it is one, else its letters; nothing for an empty one.
    pub(super) fn mark(&self, mark: &str) -> String {
        match self.control.get(mark.as_bytes()) {
            _ if mark.is_empty() => String::new(),
            Some(number) => format!("<[{number}]>"),
            None => json!(mark).to_string(),
        }
    }

    /// Returns the `constraint` of an answer of which `begun` is written already. In that, `marks` are control tokens
    /// where the constraint wants these. The error says that no such answer begins so.
    pub(super) fn behind(
        &self,
        constraint: Option<Constraint>,
        begun: &str,
        marks: &[String],
    ) -> Result<Option<Constraint>, String> {
        let Some(mut constraint) = constraint else { return Ok(None) };
        let trie = self.factory.tok_env().tok_trie();
        let mut rest = begun;
        while !rest.is_empty() {
            let control = marks.iter().find_map(|mark| {
                let behind = rest.strip_prefix(mark.as_str())?;
                let token = Token::try_from(*self.control.get(mark.as_bytes())?).ok()?;
                Some((token, behind))
            });
            if let Some((token, behind)) = control
                && constraint.allowed()?.is_allowed(token.unsigned_abs())
            {
                constraint.take(token)?;
                rest = behind;
                continue;
            }
            let next = |mark: &String| rest.match_indices(mark.as_str()).map(|(at, _)| at).find(|&at| at > 0);
            let (text, behind) = rest.split_at(marks.iter().filter_map(next).min().unwrap_or(rest.len()));
            // as few tokens as there are: which ones makes no difference to a grammar of bytes
            let tokens = trie.greedy_tokenize(text.as_bytes());
            if trie.decode_raw(&tokens) != text.as_bytes() {
                return Err(format!("no tokens make {text:?}"));
            }
            constraint.matcher.consume_tokens(&tokens).map_err(|error| error.to_string())?;
            rest = behind;
        }
        Ok(Some(constraint))
    }

    /// Makes the constraint for `grammar`. The error says what is wrong with it.
    pub(super) fn compile(&self, grammar: TopLevelGrammar) -> Result<Constraint, String> {
        let length = grammar.grammars.iter().map(|grammar| {
            let schema = grammar.json_schema.as_ref().map_or(0, |schema| schema.to_string().len());
            schema + grammar.lark_grammar.as_ref().map_or(0, String::len)
        });
        if length.sum::<usize>() > MAX_GRAMMAR {
            return Err(format!("it is longer than {MAX_GRAMMAR} bytes"));
        }
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(error);
        }
        let mut constraint = Constraint { matcher };
        // one that leads nowhere is not found before it is followed
        constraint.allowed().map_err(|reason| match reason.lines().next() {
            Some("NoExtensionBias") | None => "no answer can begin as it says".to_owned(),
            Some(first) => first.to_owned(),
        })?;
        Ok(constraint)
    }
}

/// Adds to `schema` how it is read. Keywords that cannot be kept to are an error if `is_strict`, else passed over.
pub(super) fn with_options(mut schema: Value, is_strict: bool) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let options = json!({"whitespace_pattern": BLANKS, "coerce_one_of": true, "lenient": !is_strict});
        fields.insert("x-guidance".to_owned(), options);
    }
    schema
}

impl Constraint {
    /// Returns the tokens that may be next.
    pub(super) fn allowed(&mut self) -> Result<SimpleVob, String> {
        self.matcher.compute_mask_or_eos().map_err(|error| error.to_string())
    }

    /// Returns whether the answer may only end.
    pub(super) fn is_over(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Goes on by one token, one of those that may be next.
    pub(super) fn take(&mut self, token: Token) -> Result<(), String> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        let token = u32::try_from(token).map_err(|error| error.to_string())?;
        self.matcher.consume_token(token).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::fake::Echo;

    fn grammars() -> Grammars {
        Grammars::new(&Echo::new(&super::super::Loaded::default(), None).vocabulary()).unwrap()
    }

    fn schema(schema: Value, is_strict: bool) -> Result<Constraint, String> {
        let format = Format::JsonSchema { schema, is_strict };
        grammars().format(&format).map(|constraint| constraint.unwrap())
    }

    /// Returns how much of `text` may be said, and whether the answer may end there.
    fn follows(mut constraint: Constraint, text: &str) -> (usize, bool) {
        let said = text.bytes().take_while(|&byte| {
            constraint.allowed().unwrap().is_allowed(byte.into()) && constraint.take(byte.into()).is_ok()
        });
        let said = said.count();
        (said, constraint.allowed().unwrap().is_allowed(256))
    }

    #[test]
    fn an_answer_keeps_to_the_schema_to_the_last_byte() {
        let person = json!({
            "type": "object", "required": ["name", "age"], "additionalProperties": false,
            "properties": {"name": {"$ref": "#/$defs/name"}, "age": {"type": "integer", "minimum": 0}},
            "$defs": {"name": {"type": "string"}},
        });
        let good = r#"{"name": "Ada é", "age": 36}"#;
        assert_eq!(follows(schema(person.clone(), true).unwrap(), good), (good.len(), true));
        assert_eq!(follows(schema(person.clone(), true).unwrap(), r#"{"name": 7}"#), (9, false));
        assert_eq!(follows(schema(person, true).unwrap(), r#"{"name": "Ada"}"#), (14, false));
    }

    #[test]
    fn an_object_is_any_object_with_so_many_blanks() {
        let object = || grammars().format(&Format::JsonObject).unwrap().unwrap();
        let text = r#"{"a": [1, {"b": null}]}"#;
        assert_eq!(follows(object(), text), (text.len(), true));
        assert_eq!(follows(object(), "[1]"), (0, false));
        let (said, may_end) = follows(object(), &format!("{{{}", " ".repeat(99)));
        assert!(said < 20 && !may_end, "{said}");
    }

    #[test]
    fn what_cannot_be_kept_to_is_an_error_only_where_it_is_strict() {
        let odd = json!({"type": "string", "format": "of-our-own"});
        assert!(schema(odd.clone(), true).err().unwrap().contains("of-our-own"));
        assert_eq!(follows(schema(odd, false).unwrap(), r#""x""#), (3, true));
        let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
        for wrong in
            [json!({"type": "animal"}), json!({"$ref": "#/nowhere"}), json!({"pattern": "("}), circle]
        {
            assert!(schema(wrong.clone(), false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn behind_a_text_it_is_as_if_it_had_followed_it() {
        let mut vocabulary = Echo::new(&super::super::Loaded::default(), None).vocabulary();
        let words = [("{\"", false), ("\": ", false), ("true", false), ("<call>", true), ("<call>x", false)];
        vocabulary
            .words
            .extend(words.map(|(text, is_control)| super::super::Word { bytes: text.into(), is_control }));
        let grammars = Grammars::new(&vocabulary).unwrap();
        let (call, marks) = (grammars.mark("<call>"), ["<call>".to_owned()]);
        assert_eq!(call, "<[260]>");
        let lark = format!("start: {call} object {call}\nobject: %json {}", json!({"type": "object"}));
        let fresh = || grammars.compile(TopLevelGrammar::from_lark(lark.clone())).unwrap();
        // the mark, an object in which it is letters, and the mark
        let text = r#"<call>{"a": true, "é<call>x": [1, {}]}<call>"#;
        let (from, to) = ("<call>".len(), text.len() - "<call>".len());
        let mut followed = fresh();
        followed.take(260).unwrap();
        for at in from..=to {
            if text.is_char_boundary(at) {
                let mut behind = grammars.behind(Some(fresh()), &text[..at], &marks).unwrap().unwrap();
                assert_eq!(behind.allowed().unwrap(), followed.allowed().unwrap(), "{}", &text[..at]);
                assert!(!behind.is_over());
            }
            if at < to {
                followed.take(text.as_bytes()[at].into()).unwrap();
            }
        }
        assert!(grammars.behind(Some(fresh()), text, &marks).unwrap().unwrap().is_over());
        assert!(grammars.behind(Some(fresh()), "<call>[", &marks).is_err());
        assert!(grammars.behind(Some(fresh()), &format!("{text} "), &marks).is_err());
        assert!(grammars.behind(None, text, &marks).unwrap().is_none());
    }

    #[test]
    fn a_hostile_schema_ends_soon_and_with_words() {
        let began = std::time::Instant::now();
        let mut branching: serde_json::Map<String, Value> = (1..60)
            .map(|n| {
                let next = json!({"$ref": format!("#/$defs/d{}", n - 1)});
                (format!("d{n}"), json!({"anyOf": [next, {"type": "array", "items": next}]}))
            })
            .collect();
        branching.insert("d0".to_owned(), json!({"type": "string"}));
        let deep = json!({"$ref": "#/$defs/d59", "$defs": branching});
        let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}});
        let many = json!({"enum": (0..20_000).map(|n| format!("{n:050}")).collect::<Vec<_>>()});
        let wide = json!({"type": "string", "pattern": "(a|b|ab|ba){900}(a?){900}$"});
        let long = json!({"type": "array", "minItems": 4_000_000_000_u64, "items": {"type": "integer"}});
        for hostile in [deep, circle, many, wide, long] {
            if let Ok(mut constraint) = schema(hostile, false) {
                for byte in *b"[\"aabb" {
                    if constraint.allowed().is_ok_and(|allowed| allowed.is_allowed(byte.into())) {
                        let _ = constraint.take(byte.into());
                    }
                }
            }
        }
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }
}
