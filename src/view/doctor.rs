use std::fmt::Write as _;

use textwrap::core::display_width;

use super::wrap::wrap;
use super::{Style, count};
use crate::doctor::{Diagnosis, Finding, HostDiagnosis, Level};
use crate::terminal::line;

/// Columns before what was found: the sign, the word, and spaces.
const MARGIN: usize = 16;
/// In fewer columns than this, what was found stands below what it is about where it has no room beside it.
const NARROW: usize = 50;
/// Columns before it there.
const NARROW_MARGIN: usize = 5;
/// Lines are not made narrower than this.
const NARROWEST: usize = 24;

/// Returns what was found on hosts, in lines of at most `width` columns, with what to do below each.
pub fn diagnosis(diagnosis: &Diagnosis, style: Style, width: usize) -> String {
    let mut text = String::new();
    for host in &diagnosis.hosts {
        on_host(host, style, width, &mut text);
        text.push('\n');
    }
    text.push_str(&sum(diagnosis, style));
    text
}

fn on_host(host: &HostDiagnosis, style: Style, width: usize, text: &mut String) {
    let machine = host.machine.as_ref().map_or_else(String::new, |machine| format!("  {}", line(machine)));
    let _ = writeln!(text, "{}{machine}", style.bold(&line(&host.host)));
    for finding in &host.findings {
        of_finding(finding, style, width, text);
    }
}

fn of_finding(finding: &Finding, style: Style, width: usize, text: &mut String) {
    let what = line(&finding.what);
    let is_narrow = width < NARROW && display_width(&what) + MARGIN > width;
    let margin = if width < NARROW { NARROW_MARGIN } else { MARGIN };
    let room = width.saturating_sub(margin).max(NARROWEST);
    let sign = match finding.level {
        Level::Ok => style.good("ok"),
        Level::Note => style.dim("- "),
        Level::Warning => style.warn("! "),
        Level::Error => style.bad("x "),
    };
    let mut lines = wrap(&what, room).into_iter();
    if is_narrow {
        let _ = writeln!(text, "  {sign} {}", finding.about);
    } else {
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(text, "  {sign} {:<10} {first}", finding.about);
    }
    for more in lines {
        let _ = writeln!(text, "{:margin$}{more}", "");
    }
    for (number, more) in
        wrap(&line(finding.advice.as_deref().unwrap_or_default()), room - 2).iter().enumerate()
    {
        let sign = if number == 0 { style.bold(">") } else { " ".to_owned() };
        let _ = writeln!(text, "{:margin$}{sign} {more}", "");
    }
}

fn sum(diagnosis: &Diagnosis, style: Style) -> String {
    let hosts = count(diagnosis.hosts.len(), "host");
    let (errors, warnings) = (diagnosis.count(Level::Error), diagnosis.count(Level::Warning));
    let mut parts = Vec::new();
    if errors > 0 {
        parts.push(style.bad(&format!("{} (x: in Bramble's way)", count(errors, "problem"))));
    }
    if warnings > 0 {
        parts.push(style.warn(&format!("{} (!)", count(warnings, "warning"))));
    }
    if parts.is_empty() {
        format!("{hosts}: nothing to do.\n")
    } else {
        format!("{hosts}: {}.\n", parts.join(", "))
    }
}
