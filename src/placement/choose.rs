//! One model, one host: which quant, and how it is served.

use super::candid::{Bars, Candid, options};
use super::refusal::{Reason, Remedies};
use super::{Choice, Quants, Room, Step, Want};
use crate::catalog::ModelFacts;
use crate::estimate::{self, Candidate, Estimate, Serving, Speed};
use crate::facts::{Basis, HostFacts};
use crate::generation::KvType;
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

/// What a choice is made of.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) model: &'a ModelFacts,
    pub(super) candidates: &'a [Candidate],
    pub(super) want: &'a Want,
    pub(super) host: &'a HostFacts,
    /// What there is, less what other models of the host take.
    pub(super) room: Room,
    /// How many models the host has got beside this one, which share its bandwidth.
    pub(super) others: u32,
    /// How much of a candidate's file is on the host already.
    pub(super) held: &'a dyn Fn(Option<Quant>) -> Bytes,
}

/// Chooses a quant and how to serve it on `host`, within `room`, which has what other
/// models of this host take already taken off. `held` says how much of a candidate's file
/// is on the host already.
pub fn choose(
    model: &ModelFacts,
    candidates: &[Candidate],
    want: &Want,
    host: &HostFacts,
    room: Room,
    held: &dyn Fn(Option<Quant>) -> Bytes,
) -> Result<Choice, Reason> {
    Case { model, candidates, want, host, room, others: 0, held }.choose()
}

impl Case<'_> {
    pub(super) fn choose(&self) -> Result<Choice, Reason> {
        let options = options(self.model, self.candidates, self.want, self.host)?;
        let ways = options.iter().flat_map(|option| {
            (0..option.servings.len()).filter_map(move |way| Some((option.cost_of(way)?, option, way)))
        });
        let fitting = ways
            .filter(|(_, option, way)| option.has_room(*way, self.room, (self.held)(option.candidate.quant)));
        match fitting.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, chosen, way)) => Ok(self.describe(&options, chosen, chosen.servings[way], 1)),
            None => Err(self.refuse(&options)),
        }
    }

    fn fit(&self, option: &Candid<'_>) -> Option<(Serving, Estimate)> {
        option.fit(self.room, (self.held)(option.candidate.quant))
    }

    /// Whether an option still answers at its floor beside what the host has got.
    fn bears_others(&self, option: &Candid<'_>) -> bool {
        option.most_together(self.want) > self.others
    }

    /// Puts an option that was taken into words. `together` models share the host, this one included.
    pub(super) fn describe(
        &self,
        options: &[Candid<'_>],
        chosen: &Candid<'_>,
        (serving, estimate): (Serving, Estimate),
        together: usize,
    ) -> Choice {
        let step = |other: Option<&Candid<'_>>| {
            other.and_then(|other| compare(chosen, &estimate, other, &|option| self.fit(option)))
        };
        Choice {
            quant: chosen.candidate.quant,
            loss: chosen.loss,
            step_up: step(next(options, chosen, true)),
            step_down: step(next(options, chosen, false)),
            serving,
            estimate,
            why: self.why(options, chosen, &serving, &estimate, together),
        }
    }

    fn rule(&self, options: &[Candid<'_>], chosen: &Candid<'_>) -> String {
        match (Bars::of(self.model, self.candidates, self.want), &self.want.quants) {
            (Some(Bars { target: (goal, good), floor: (floor, _) }), _) => {
                if chosen.is_no_worse_than(&good) {
                    format!("the fastest that loses no more than {goal}")
                } else {
                    format!("the best that fits; {goal} does not, {floor} is the floor")
                }
            }
            (None, Quants::AsIs) => "the file as it is".to_owned(),
            (None, Quants::AsIsOr(_)) => "the file as it is, or the best of it that fits".to_owned(),
            (None, _) if options.len() == 1 => "as asked for".to_owned(),
            (None, _) => "the first of the list that fits".to_owned(),
        }
    }

    fn why(
        &self,
        options: &[Candid<'_>],
        chosen: &Candid<'_>,
        serving: &Serving,
        estimate: &Estimate,
        together: usize,
    ) -> String {
        let speed = &estimate.speed;
        let layout = if serving.repack { ", repacked" } else { "" };
        let kv = match serving.kv {
            KvType::F16 => String::new(),
            KvType::Q8_0 => format!(", keys and values in Q8_0 (~{} more loss)", estimate::PACKED_KV),
        };
        let loss = chosen.loss.map_or(String::new(), |loss| format!(", loss {loss}"));
        format!(
            "{name}: {rule}; needs {need} of {room}{left}{layout}{kv}; {speed}{loss}",
            name = chosen.candidate.name(),
            rule = self.rule(options, chosen),
            need = estimate.need,
            room = self.room.memory,
            left = if together > 1 { " that the others leave" } else { "" },
            speed = self.speed(speed, together),
        )
    }

    fn speed(&self, speed: &Speed, together: usize) -> String {
        let (answer, basis) = (
            &speed.answer,
            match speed.basis {
                Basis::Unknown => {
                    let unchecked = match self.want.floor_rate.0 {
                        floor if floor > 0.0 && self.want.quants == Quants::Auto => {
                            format!(" (its floor of {floor} tok/s is not checked)")
                        }
                        _ => String::new(),
                    };
                    return format!("speed unknown until `bramble bench` measures it{unchecked}");
                }
                Basis::Estimated => "estimated",
                Basis::Calibrated => "calibrated on this board",
                Basis::Measured => "measured on this host",
            },
        );
        let shared = match together {
            0 | 1 => String::new(),
            n => format!(", {:.1} while all {n} models of the host answer", answer.expected.0 / n as f64),
        };
        let [low, high] = [answer.low, answer.high].map(|end| format!("{:.1}", end.0));
        let range = if low == high { String::new() } else { format!("{low} to {high}, ") };
        format!("answers {} ({range}{basis}){shared}, prompts {}", answer.expected, speed.prompt.expected)
    }

    /// Says why none of the options can be taken: the bound that was hit, by the option that comes nearest.
    pub(super) fn refuse(&self, options: &[Candid<'_>]) -> Reason {
        let is_auto = self.want.quants == Quants::Auto;
        let bars = Bars::of(self.model, self.candidates, self.want);
        let is_good =
            |option: &&Candid<'_>| bars.as_ref().is_none_or(|bars| option.is_no_worse_than(&bars.floor.1));
        let good: Vec<&Candid<'_>> = options.iter().filter(is_good).collect();
        let Some(smallest) = good.iter().min_by_key(|option| option.least()) else {
            return Reason::NoCandidate;
        };
        let least = smallest.least();
        if least > self.room.memory {
            let below = options.iter().filter(|_| is_auto);
            let below = below.filter(|option| self.bears_others(option) && self.fit(option).is_some());
            let below = below.min_by(|a, b| a.divergence().total_cmp(&b.divergence()));
            return Reason::Memory {
                quant: smallest.candidate.quant,
                is_floor: is_auto,
                is_packed: smallest.leanest().is_some_and(|(serving, _)| serving.kv != KvType::F16),
                need: least,
                room: self.room.memory,
                others: self.others,
                remedies: Remedies {
                    elsewhere: Vec::new(),
                    below_floor: below.and_then(|option| option.candidate.quant),
                    context: self.shorter(smallest.candidate),
                },
            };
        }
        let missing = |option: &Candid<'_>| option.file() - (self.held)(option.candidate.quant);
        let fitting = good.iter().filter(|option| option.least() <= self.room.memory);
        if let Some(nearest) = fitting.min_by_key(|option| missing(option)) {
            let need = missing(nearest);
            if let Some(disk) = self.room.disk.filter(|disk| need > *disk) {
                let path =
                    self.host.disk.as_ref().map_or_else(|| "its disk".to_owned(), |disk| disk.path.clone());
                return Reason::Disk { quant: nearest.candidate.quant, need, room: disk, path };
            }
        }
        let rates = good.iter().map(|option| option.slowest());
        let answer = rates.fold(TokensPerSec(0.0), |a, b| if b > a { b } else { a });
        Reason::Slow { quant: smallest.candidate.quant, answer, floor: self.want.floor_rate }
    }

    /// Returns the longest context, in whole steps, with which `candidate` would fit.
    fn shorter(&self, candidate: &Candidate) -> Option<u32> {
        // below two of them, a chat template and one question hardly fit
        const STEP: u32 = 256;
        let fits = |steps: u32| {
            let want = Want { context: steps * STEP, ..self.want.clone() };
            let shorter = Candid::new(self.model, candidate, &want, self.host);
            self.bears_others(&shorter) && self.fit(&shorter).is_some()
        };
        let (mut most, mut too_many) = (2, self.want.context.div_ceil(STEP));
        if too_many <= most || !fits(most) {
            return None;
        }
        while too_many - most > 1 {
            let middle = u32::midpoint(most, too_many);
            if fits(middle) { most = middle } else { too_many = middle }
        }
        Some(most * STEP)
    }
}

/// The neighbour in quality.
fn next<'a, 'b>(options: &'b [Candid<'a>], chosen: &Candid<'_>, is_up: bool) -> Option<&'b Candid<'a>> {
    let at = chosen.loss?.divergence;
    let known = options.iter().filter_map(|option| Some((option, option.loss?.divergence)));
    let order = |a: &(_, f64), b: &(_, f64)| a.1.total_cmp(&b.1);
    let found = if is_up {
        known.filter(|(_, loss)| *loss < at).max_by(order)
    } else {
        known.filter(|(_, loss)| *loss > at).min_by(order)
    };
    found.map(|(option, _)| option)
}

fn compare(
    chosen: &Candid<'_>,
    estimate: &Estimate,
    other: &Candid<'_>,
    fit: &dyn Fn(&Candid<'_>) -> Option<(Serving, Estimate)>,
) -> Option<Step> {
    let (quant, loss, old) = (other.candidate.quant?, other.loss?, chosen.loss?);
    let fitting = fit(other);
    let (need, answer) =
        fitting.map_or((other.least(), other.answer()), |(_, e)| (e.need, e.speed.answer.expected));
    let (speed, old_answer) = (&estimate.speed, estimate.speed.answer.expected);
    let rate = match speed.least() {
        Some(_) => format!("{:+.1} tok/s", answer.0 - old_answer.0),
        None => format!("{:.2} times as fast", answer.0 / old_answer.0.max(1e-9)),
    };
    let (sign, bytes) =
        if need >= estimate.need { ('+', need - estimate.need) } else { ('-', estimate.need - need) };
    let fits = if fitting.is_some() { "" } else { ", does not fit" };
    let text = format!("{quant}: {rate}, {sign}{bytes}, loss {old} -> {loss}{fits}");
    Some(Step { quant, answer, need, loss, fits: fitting.is_some(), text })
}
