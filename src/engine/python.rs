//! What `transformers` gives chat templates and minijinja has not, or has in another way.

use std::io::{self, Write as _};

use jiff::civil::DateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde::Serialize;

/// How often lists and objects may be in each other, to be written. Requests have no more than half as many.
const MAX_DEPTH: usize = 256;

/// What a template says of why it refuses a conversation, in letters.
const LONGEST_MESSAGE: usize = 4096;

/// The longest format of a time, in bytes.
const LONGEST_FORMAT: usize = 1024;

/// Adds all of it. `now` is asked whenever a template wants the time.
pub(super) fn add_to(environment: &mut Environment<'static>, now: fn() -> DateTime) {
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        if method == "format" {
            pay_for_widths(state, value.as_str().unwrap_or_default())?;
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| strftime(format, now()));
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", string);
    environment.set_formatter(|out, state, value| match as_float(value) {
        Some(value) => out.write_str(&float(value)).map_err(Error::from),
        None if value.as_object().is_some() => out.write_str(&shown(state, value)?).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
}

fn raise_exception(state: &State, message: &Value) -> Result<String, Error> {
    Err(wrong(shown(state, message)?.chars().take(LONGEST_MESSAGE).collect()))
}

fn wrong(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Shows a time that is of no zone, as Python's `datetime.now()` is not.
fn strftime(format: &str, time: DateTime) -> Result<String, Error> {
    // each of its letters may stand for fifty and more
    if format.len() > LONGEST_FORMAT {
        return Err(wrong(format!("a format of a time has more than {LONGEST_FORMAT} letters")));
    }
    let config = Config::new().custom(PosixCustom::new()).lenient(true);
    let mut all = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(letter) = rest.next() {
        all.push(letter);
        if letter != '%' {
            continue;
        }
        match rest.next() {
            // of six digits always
            Some('f') => all.push_str("6f"),
            Some('z' | 'Z') => drop(all.pop()),
            Some(other) => all.push(other),
            None => (),
        }
    }
    let time = BrokenDownTime::from(time);
    time.to_string_with_config(&config, &all).map_err(|error| wrong(error.to_string()))
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    match as_float(value) {
        Some(value) => Ok(float(value).into()),
        None if value.as_object().is_some() => shown(state, value).map(Value::from),
        None => minijinja::filters::string(state, value),
    }
}

/// Shows a list or an object, for as long as there is fuel.
fn shown(state: &State, value: &Value) -> Result<String, Error> {
    let mut paid = Paid { state, out: Vec::new(), due: 0, refusal: None };
    let written = write!(paid, "{value}");
    match (paid.refusal, written) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) => Err(wrong(error.to_string())),
        (None, Ok(())) => Ok(String::from_utf8_lossy(&paid.out).into_owned()),
    }
}

/// Takes the fuel for fields that are as wide as the numbers in `format` may say: `{:>4000000000}` is all that it takes.
fn pay_for_widths(state: &State, format: &str) -> Result<(), Error> {
    let numbers = format.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let wide = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    state.consume_fuel(wide / 64)
}

fn as_float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Returns whether a value has a length and parts: texts and mappings do, too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Map => true,
        // a slice of a list is a list
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Writes JSON as Python's `json.dumps` does, without escapes for HTML: `tojson(ensure_ascii=false, indent=none,
/// separators=none, sort_keys=false)`.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands arguments over")]
fn tojson(state: &State, value: &Value, by_place: Rest<Value>, by_name: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(wrong("what is undefined cannot be JSON".to_owned()));
    }
    if by_place.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let option = |place: usize, name: &str| match by_place.get(place) {
        Some(value) => Ok(Some(value.clone())),
        None => by_name.get::<Option<Value>>(name),
    };
    let is_on = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let is_ascii = is_on(option(0, "ensure_ascii")?);
    let indent = option(1, "indent")?.filter(|indent| !indent.is_none()).map(|indent| blanks(&indent));
    let indent = indent.transpose()?;
    let separators = option(2, "separators")?.filter(|pair| !pair.is_none());
    let (between, behind_key) = match separators {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(pair) => {
            // a list costs nothing until it is looked at
            let texts = pair.try_iter()?.take(3).map(|text| shown(state, &text));
            let [between, behind_key] = <[String; 2]>::try_from(texts.collect::<Result<Vec<_>, _>>()?)
                .map_err(|texts| wrong(format!("there must be 2 separators, not {}", texts.len())))?;
            (between, behind_key)
        }
    };
    let style = Style { is_ascii, indent, between, behind_key, depth: 0, is_filled: false };
    let is_sorted = is_on(option(3, "sort_keys")?);
    by_name.assert_all_used()?;
    if !is_sorted {
        return write(state, value, style);
    }
    let plain: serde_json::Value = serde_json::from_str(&write(state, value, style.plain())?)
        .map_err(|error| wrong(error.to_string()))?;
    let mut sorted = plain;
    sorted.sort_all_objects();
    write(state, &sorted, style)
}

/// Returns what `indent` puts before a line: so many spaces, or a text.
fn blanks(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = i64::try_from(indent.clone())?;
    Ok(" ".repeat(usize::try_from(width).unwrap_or(0).min(64)))
}

fn write(state: &State, value: &impl Serialize, style: Style) -> Result<String, Error> {
    let paid = Paid { state, out: Vec::new(), due: 0, refusal: None };
    let mut writer = serde_json::Serializer::with_formatter(paid, style);
    let written = value.serialize(&mut writer);
    let paid = writer.into_inner();
    match (paid.refusal, written) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) => {
            Err(Error::new(ErrorKind::InvalidOperation, "cannot be JSON").with_source(error))
        }
        (None, Ok(())) => Ok(String::from_utf8_lossy(&paid.out).into_owned()),
    }
}

/// Takes text for as long as there is fuel: a small value may be a long text, where it has
/// the same parts many times.
struct Paid<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: Vec<u8>,
    /// Bytes that are not paid for.
    due: usize,
    refusal: Option<Error>,
}

impl io::Write for Paid<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        // short parts cost time, too
        self.due += bytes.len().max(16);
        if self.due >= 64 {
            if let Err(refusal) = self.state.consume_fuel((self.due / 64) as u64) {
                self.refusal = Some(refusal);
                return Err(io::Error::other("there is no fuel left"));
            }
            self.due %= 64;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How Python writes JSON.
struct Style {
    /// Whether letters beyond ASCII are escaped.
    is_ascii: bool,
    /// What each level is indented by; none keeps all in one line.
    indent: Option<String>,
    /// Stands between elements.
    between: String,
    /// Stands between a key and its value.
    behind_key: String,
    depth: usize,
    /// Whether the list or object that was written last has elements.
    is_filled: bool,
}

impl Style {
    /// Returns one that is read again.
    fn plain(&self) -> Self {
        let (between, behind_key) = (",".to_owned(), ":".to_owned());
        Self { is_ascii: self.is_ascii, indent: None, between, behind_key, depth: 0, is_filled: false }
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(io::Error::other("lists and objects are in each other too often"));
        }
        self.is_filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.is_filled {
            self.start_line(writer)?;
        }
        self.is_filled = true;
        writer.write_all(bracket)
    }

    fn element<W: ?Sized + io::Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            writer.write_all(self.between.as_bytes())?;
        }
        self.start_line(writer)
    }

    fn start_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }
}

impl serde_json::ser::Formatter for Style {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.element(writer, first)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.element(writer, first)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.behind_key.as_bytes())
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.is_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for letter in fragment.chars() {
            if matches!(letter, ' '..='~') {
                writer.write_all(&[letter as u8])?;
            } else {
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// Shows a number as Python does: the fewest digits that tell it apart, with an exponent where
/// it is smaller than 0.0001 or has more than 16 digits before its point.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && size.is_finite() && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(expression: &str) -> String {
        render(&format!("{{{{ {expression} }}}}"))
    }

    fn render(source: &str) -> String {
        let mut environment = Environment::new();
        add_to(&mut environment, || jiff::civil::date(2026, 3, 5).at(9, 7, 4, 12_000));
        environment.render_str(source, ()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        for (expression, expected) in [
            ("{'b': [1, '<é>'], 'a': none} | tojson", "{\"b\": [1, \"<é>\"], \"a\": null}"),
            ("{'b': [], 'a': {}} | tojson(indent=2)", "{\n  \"b\": [],\n  \"a\": {}\n}"),
            ("[[1, {'a': []}], []] | tojson(indent=1)", "[\n [\n  1,\n  {\n   \"a\": []\n  }\n ],\n []\n]"),
            ("[1, [2]] | tojson(indent='\t')", "[\n\t1,\n\t[\n\t\t2\n\t]\n]"),
            ("[1, 2] | tojson(indent=0)", "[\n1,\n2\n]"),
            ("'é🦀\t\x7f' | tojson(true)", r#""\u00e9\ud83e\udd80\t\u007f""#),
            (
                "{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true)",
                r#"{"a": {"c": 2, "d": 1}, "b": 1}"#,
            ),
            ("{'a': [1, 2]} | tojson(separators=(',', ':'))", r#"{"a":[1,2]}"#),
            ("{'a': [1, 2]} | tojson(indent=1, separators=('; ', '='))", "{\n \"a\"=[\n  1; \n  2\n ]\n}"),
            (
                "[1.0, 1e16, 1e-5, 123456789.25, 0.0001, 1.5e300, -0.0] | tojson",
                "[1.0, 1e+16, 1e-05, 123456789.25, 0.0001, 1.5e+300, -0.0]",
            ),
            (
                "[true, false, none, 18446744073709551615] | tojson",
                "[true, false, null, 18446744073709551615]",
            ),
        ] {
            assert_eq!(show(expression), expected, "{expression}");
        }
        for (expression, reason) in [
            ("nothing | tojson", "undefined"),
            ("1 | tojson(separators=[','])", "2 separators, not 1"),
            ("1 | tojson(colour=1)", "colour"),
        ] {
            assert!(show(expression).contains(reason), "{}", show(expression));
        }
    }

    #[test]
    fn numbers_are_shown_as_in_json() {
        let numbers = "{% for n in [1, 2.0, 1e-7, 1e16] %}{{ n }} {{ n | string }} {% endfor %}";
        assert_eq!(render(numbers), "1 1 2.0 2.0 1e-07 1e-07 1e+16 1e+16 ");
    }

    #[test]
    fn times_are_shown_as_c_shows_them() {
        for (format, expected) in [
            ("%d %b %Y", "05 Mar 2026"),
            ("%A, %B %-d, %e", "Thursday, March 5,  5"),
            ("%Y-%m-%d %H:%M:%S.%f", "2026-03-05 09:07:04.000012"),
            ("%c|%x|%X|%p|%I", "Thu Mar  5 09:07:04 2026|03/05/26|09:07:04|AM|09"),
            ("[%Z%z] 100%% %j", "[] 100% 064"),
        ] {
            assert_eq!(show(&format!("strftime_now('{format}')")), expected);
        }
    }

    #[test]
    fn what_python_can_count_is_a_sequence() {
        for (test, expected) in [
            ("'text' is sequence", "True"),
            ("{} is sequence", "True"),
            ("[1, 2][:1] is sequence", "True"),
            ("1 is sequence", "False"),
            ("none is iterable", "False"),
            ("'' is iterable", "True"),
        ] {
            assert_eq!(show(test), expected, "{test}");
        }
    }
}
