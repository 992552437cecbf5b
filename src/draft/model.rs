use crate::catalog;
use crate::facts::HostFacts;
use crate::fit::{self, Question, Verdict};
use crate::source::Pinned;

/// Models of the catalog that answer in a chat, without a login and without terms of use, the smallest first.
const MODELS: [&str; 7] = [
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    DEFAULT_MODEL,
    "qwen2.5-1.5b-instruct",
    "smollm3-3b",
    "phi-4-mini-instruct",
    "mistral-7b-instruct-v0.3",
];

/// The model for hosts of which nothing is known: half a billion parameters fit every board that has 1 GB.
pub const DEFAULT_MODEL: &str = "qwen2.5-0.5b-instruct";

/// Tokens that a conversation may have.
pub(super) const CONTEXT: u32 = 4096;

/// A model for the hosts, with why it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Its name in the catalog.
    pub name: String,
    /// Why, in a line.
    pub why: String,
}

/// Takes the largest model that is as fast as people read on each of `hosts`; else the largest that is not too slow to
/// wait for; else the smallest. With no host, one that fits nearly everywhere.
pub fn pick(hosts: &[(String, HostFacts)]) -> Pick {
    if hosts.is_empty() {
        let why = "small enough for any board of 1 GB; `bramble fit` shows what others would do".to_owned();
        return Pick { name: DEFAULT_MODEL.to_owned(), why };
    }
    let judged: Vec<(&str, Judged)> =
        MODELS.iter().filter_map(|name| Some((*name, judge(name, hosts)?))).collect();
    let best = |wanted: Verdict| judged.iter().rev().find(|(_, judged)| judged.verdict >= wanted);
    let unknown = judged.iter().all(|(_, judged)| judged.rate.is_none());
    // where no speed can be foretold, every model seems slow: the small one is safe
    let found = if unknown { None } else { best(Verdict::Good).or_else(|| best(Verdict::Slow)) };
    match found {
        Some((name, judged)) => Pick { name: (*name).to_owned(), why: judged.why.clone() },
        None if unknown => Pick {
            name: DEFAULT_MODEL.to_owned(),
            why:
                "how fast these hosts are is not known: `bramble bench` measures that, and larger ones may do"
                    .to_owned(),
        },
        None => Pick {
            name: MODELS[0].to_owned(),
            why: "the smallest: these hosts have little memory free".to_owned(),
        },
    }
}

/// What becomes of a model on the host where it does worst.
struct Judged {
    verdict: Verdict,
    rate: Option<f64>,
    why: String,
}

fn judge(name: &str, hosts: &[(String, HostFacts)]) -> Option<Judged> {
    let known = catalog::find(name).ok()?;
    let source = Pinned { uri: known.source.to_string(), files: Vec::new(), license: None };
    let question = Question { context: CONTEXT, quants: fit::LADDER.to_vec(), is_only: false };
    let fitted = fit::fit(name, &known.figures.facts(source), true, &question, hosts);
    let on_each = fitted.boards.iter().map(|on| {
        let form = on.pick.as_ref().and_then(|pick| on.forms.iter().find(|form| form.quant == *pick));
        let rate = form.map(|form| form.speed.answer.expected.0).filter(|rate| *rate > 0.0);
        let verdict = form.map_or(Verdict::No, |form| form.verdict);
        let why = form.map_or_else(String::new, |form| {
            let speed = rate.map_or_else(String::new, |rate| format!(", about {rate:.1} tok/s"));
            format!("{} on {}: {} of {}{speed}; a forecast", form.quant, on.board, form.need, on.room)
        });
        Judged { verdict, rate, why }
    });
    on_each.min_by(|a, b| {
        a.verdict.cmp(&b.verdict).then_with(|| a.rate.unwrap_or(0.0).total_cmp(&b.rate.unwrap_or(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Prompt;
    use crate::facts::planned;

    #[test]
    fn models_are_open_and_in_order() {
        let known: Vec<_> = MODELS.iter().map(|name| catalog::find(name).unwrap()).collect();
        for model in &known {
            assert!(
                !model.is_gated && ["apache-2.0", "mit"].contains(&model.license.as_str()),
                "{}",
                model.name
            );
            assert_eq!(model.prompt, Prompt::Own, "{}", model.name);
        }
        assert!(known.is_sorted_by_key(|model| model.parameters));
    }

    #[test]
    fn the_weakest_host_decides() {
        let host = |board: &str| (board.to_owned(), planned(board).unwrap());
        let strong = pick(&[host("pi5-8gb")]);
        let both = pick(&[host("pi5-8gb"), host("pi4-1gb")]);
        let place = |pick: &Pick| MODELS.iter().position(|name| *name == pick.name).unwrap();
        assert!(place(&strong) > place(&both), "{strong:?} {both:?}");
        assert!(strong.why.contains("on pi5-8gb") && strong.why.contains("tok/s"), "{}", strong.why);
        assert!(both.why.contains("on pi4-1gb"), "{}", both.why);
        assert_eq!(pick(&[]).name, DEFAULT_MODEL);
    }
}
