use std::fmt::Write as _;

use super::changes::changes;
use super::table::Style;
use crate::execute::{Earlier, Subject};

/// Shows from where to where hosts go back, and what that changes there; none stands for a host that does not tell.
pub fn going_back<'a>(
    hosts: impl IntoIterator<Item = (&'a Subject, Option<&'a Earlier>)>,
    style: Style,
) -> String {
    let mut text = String::new();
    for (subject, earlier) in hosts {
        let from =
            subject.current().map_or_else(|| "nothing".to_owned(), |number| format!("generation {number}"));
        let to =
            earlier.map_or_else(|| "the one before".to_owned(), |earlier| earlier.generation.to_string());
        let _ = writeln!(text, "{} {}  {from} -> {to}", style.warn("~"), style.bold(subject.host.as_str()));
        let wanted = earlier.and_then(|earlier| earlier.definition.as_ref());
        let Some((now, wanted)) = subject.definition().zip(wanted) else { continue };
        for line in changes(Some(now), wanted, style) {
            let _ = writeln!(text, "    {line}");
        }
    }
    text.push_str(
        "\nThe manifest stays as it is: the next `bramble apply` brings back what it says, unless you change it first.",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connect::fake::Fake;
    use crate::generation::Layout;
    use crate::ids::Generation;
    use crate::plan::testing::Fleet;

    #[test]
    fn each_host_is_shown_with_both_generations_and_what_changes() {
        let mut fleet = Fleet::new();
        fleet.apply();
        let before = fleet.facts("attic").installed.clone().unwrap().current.unwrap().1;
        fleet.change("context: 1024", "context: 768");
        fleet.apply();
        let subject = |host: &str, fleet: &mut Fleet| Subject {
            host: host.parse().unwrap(),
            layout: Layout::new("/var/lib/bramble"),
            is_root: true,
            installed: fleet.facts(host).installed.clone().unwrap(),
            connection: Arc::new(Fake::new(host)),
            fresh: Arc::new(Fake::new(host)),
        };
        let (attic, shed) = (subject("attic", &mut fleet), subject("shed", &mut fleet));
        let earlier = Earlier { generation: Generation::FIRST, definition: Some(before) };
        let style = Style::default();
        insta::assert_snapshot!(going_back([(&attic, Some(&earlier)), (&shed, None)], style));
    }
}
