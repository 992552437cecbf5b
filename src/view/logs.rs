use super::Style;
use crate::execute::LogLine;
use crate::ids::HostName;
use crate::terminal;

/// Returns a line of a service's log with the host and the service that said it, and when, where the line
/// does not begin with that itself.
pub fn log_line(host: &HostName, width: usize, line: &LogLine, style: Style) -> String {
    let name = style.bold(&format!("{host:width$}"));
    let text = terminal::line(&line.text);
    let at = match &line.at {
        Some(at) if !is_dated(&text) => format!("{} ", terminal::line(at)),
        _ => String::new(),
    };
    format!("{name} {} | {at}{text}\n", terminal::line(&line.service))
}

/// Returns whether a text begins with a date, as `2026-11-23T`.
fn is_dated(text: &str) -> bool {
    let form = b"0000-00-00T";
    let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() >= form.len() && text.as_bytes().iter().zip(form).all(fits)
}
