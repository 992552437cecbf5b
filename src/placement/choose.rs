//! One model, one host: which quant, and how it is served.

use super::refusal::{Reason, Remedies};
use super::{Choice, Lean, Quants, Room, Step, Want};
use crate::catalog::ModelFacts;
use crate::estimate::{Candidate, Estimate, Loss, Serving, footprint, is_repacking, loss_of};
use crate::facts::HostFacts;
use crate::generation::{KvType, LoadMode};
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

/// Micro-batches to choose from, largest first. 512 is llama.cpp's own default; smaller
/// ones only make the compute buffer smaller: at 64 tokens, weights are still read once
/// for many tokens.
const MICRO_BATCHES: [u32; 4] = [512, 256, 128, 64];

/// Answer rates closer than this part count as equal: the decode formula's own error on
/// the board it was fitted to is 2 to 4 %.
const RATE_ERROR: f64 = 0.03;

/// Returns the quants that `auto` chooses among: those whose loss is measured for
/// quantizing without an importance matrix, and that are smaller than the original.
pub fn auto_quants() -> impl Iterator<Item = Quant> {
    let is_out =
        |quant: &Quant| matches!(quant, Quant::F32 | Quant::F16 | Quant::Bf16 | Quant::Iq4Nl | Quant::Iq4Xs);
    Quant::ALL.iter().copied().filter(move |quant| !is_out(quant))
}

/// A candidate, with what it would take and give.
struct Candid<'a> {
    candidate: &'a Candidate,
    loss: Option<Loss>,
    /// The servings, fastest first. Never empty.
    servings: Vec<(Serving, Estimate)>,
}

impl<'a> Candid<'a> {
    fn new(model: &ModelFacts, candidate: &'a Candidate, want: &Want, host: &HostFacts) -> Self {
        // A CPU that copies weights into its own layout would hold them twice if the file
        // were mapped as well; without copies, mapped pages survive a restart of the engine.
        let repacked = is_repacking(model, candidate, host).then_some((LoadMode::Read, true));
        let ways = repacked.into_iter().chain([(LoadMode::Mmap, false)]);
        let servings = ways.flat_map(|(load, repack)| {
            let serving = |micro_batch| Serving {
                context: want.context,
                slots: want.slots,
                threads: host.cpu.cores.max(1),
                micro_batch,
                load,
                repack,
                kv: KvType::F16,
            };
            let estimate = footprint(model, candidate, &serving(MICRO_BATCHES[0]), host);
            MICRO_BATCHES.map(|size| (serving(size), estimate.with_micro_batch(model, &serving(size))))
        });
        let servings = servings.collect();
        Self { candidate, loss: candidate.loss(model), servings }
    }

    /// Returns the fastest serving that fits.
    fn fit(&self, room: Room, held: Bytes) -> Option<(Serving, Estimate)> {
        let has_disk = |estimate: &Estimate| room.disk.is_none_or(|disk| estimate.file - held <= disk);
        self.servings.iter().find(|(_, e)| e.need <= room.memory && has_disk(e)).copied()
    }

    /// Returns the least memory that it can do with.
    fn least(&self) -> Bytes {
        self.servings.iter().map(|(_, estimate)| estimate.need).min().unwrap_or_default()
    }

    /// Returns the answer rate for comparing quants. It does not depend on the serving.
    fn answer(&self) -> TokensPerSec {
        self.servings.first().map_or(TokensPerSec(0.0), |(_, estimate)| estimate.speed.answer.expected)
    }

    fn slowest(&self) -> TokensPerSec {
        self.servings.first().map_or(TokensPerSec(0.0), |(_, estimate)| estimate.speed.answer.low)
    }

    fn file(&self) -> Bytes {
        self.servings.first().map_or(Bytes::ZERO, |(_, estimate)| estimate.file)
    }

    fn is_no_worse_than(&self, bar: &Loss) -> bool {
        self.loss.is_some_and(|loss| loss.is_within(bar))
    }
}

/// Returns the loss that `auto` stays within if it can: that of `Q4_K_M` from 3 thousand
/// million parameters up, `Q5_K_M` below, `Q8_0` below half of one; a lean moves it one step.
fn target(model: &ModelFacts, lean: Lean) -> Quant {
    const LADDER: [Quant; 5] = [Quant::Q8_0, Quant::Q6K, Quant::Q5KM, Quant::Q4KM, Quant::Q4_0];
    let step: usize = match model.parameters {
        3_000_000_000.. => 3,
        500_000_000.. => 2,
        _ => 0,
    };
    LADDER[match lean {
        Lean::Balanced => step,
        // above Q8_0 there is nothing that could be told from it
        Lean::Quality => step.saturating_sub(1),
        Lean::Speed => step + 1,
    }]
}

fn loss_on(model: &ModelFacts, quant: Quant, candidates: &[Candidate]) -> Loss {
    let known = candidates.iter().find(|candidate| candidate.quant == Some(quant));
    loss_of(model, quant, known.map(|candidate| candidate.tensors.as_slice()))
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
    userland(host)?;
    let options = options(model, candidates, want, host)?;
    let fit = |option: &Candid<'_>| option.fit(room, held(option.candidate.quant));

    let Rules { target, floor } = Rules::of(model, candidates, want);
    let is_fast = |option: &&Candid<'_>| option.slowest() >= want.floor_rate;
    let (chosen, rule) = if let (Some((goal, good)), Some((floor_quant, bad))) = (&target, &floor) {
        let fitting: Vec<&Candid<'_>> = options.iter().filter(|o| fit(o).is_some()).filter(is_fast).collect();
        let within = fitting.iter().filter(|o| o.is_no_worse_than(good)).copied();
        let below = fitting.iter().filter(|o| o.is_no_worse_than(bad)).copied();
        let fastest = fastest(within.collect());
        let rule = match fastest {
            Some(_) => format!("the fastest that loses no more than {goal}"),
            None => format!("the best that fits; {goal} does not, {floor_quant} is the floor"),
        };
        (fastest.or_else(|| best(below.collect())), rule)
    } else {
        let rule = match want.quants {
            Quants::AsIs => "the file as it is".to_owned(),
            Quants::AsIsOr(_) => "the file as it is, or the best of it that fits".to_owned(),
            _ if options.len() == 1 => "as asked for".to_owned(),
            _ => "the first of the list that fits".to_owned(),
        };
        (options.iter().find(|option| fit(option).is_some()), rule)
    };
    let Some((chosen, (serving, estimate))) = chosen.and_then(|option| Some((option, fit(option)?))) else {
        return Err(refuse(model, candidates, want, host, room, held, &options));
    };
    let why = why(chosen, &serving, &estimate, room, &rule);
    let step = |other: Option<&Candid<'_>>| other.and_then(|other| compare(chosen, &estimate, other, &fit));
    Ok(Choice {
        quant: chosen.candidate.quant,
        loss: chosen.loss,
        step_up: step(next(&options, chosen, true)),
        step_down: step(next(&options, chosen, false)),
        serving,
        estimate,
        why,
    })
}

/// Returns the least memory and disk with which [`choose`] would place the model on this
/// host; none where it never would.
pub fn smallest(
    model: &ModelFacts,
    candidates: &[Candidate],
    want: &Want,
    host: &HostFacts,
    held: &dyn Fn(Option<Quant>) -> Bytes,
) -> Option<Room> {
    userland(host).ok()?;
    let options = options(model, candidates, want, host).ok()?;
    let allowed = allowed(model, candidates, want, &options);
    let least = allowed.into_iter().min_by_key(|option| option.least())?;
    Some(Room { memory: least.least(), disk: Some(least.file() - held(least.candidate.quant)) })
}

/// The bars of `auto`, with the quants that they are named for; none for explicit choices.
struct Rules {
    target: Option<(Quant, Loss)>,
    floor: Option<(Quant, Loss)>,
}

impl Rules {
    fn of(model: &ModelFacts, candidates: &[Candidate], want: &Want) -> Self {
        if want.quants != Quants::Auto {
            return Self { target: None, floor: None };
        }
        let named = |quant: Quant| (quant, loss_on(model, quant, candidates));
        let floor = named(want.floor_quality);
        let target = named(target(model, want.lean));
        // a floor above the target is the target
        let target = if target.1.divergence > floor.1.divergence { floor } else { target };
        Self { target: Some(target), floor: Some(floor) }
    }
}

/// The options that the rules allow, whatever the room.
fn allowed<'a, 'b>(
    model: &ModelFacts,
    candidates: &[Candidate],
    want: &Want,
    options: &'b [Candid<'a>],
) -> Vec<&'b Candid<'a>> {
    let rules = Rules::of(model, candidates, want);
    let is_allowed = |option: &&Candid<'_>| match &rules.floor {
        Some((_, bad)) => option.is_no_worse_than(bad) && option.slowest() >= want.floor_rate,
        None => true,
    };
    options.iter().filter(is_allowed).collect()
}

fn userland(host: &HostFacts) -> Result<(), Reason> {
    let is_64 = ["aarch64", "x86_64"].contains(&host.machine.as_str());
    if !is_64 || host.userland_bits == Some(32) {
        return Err(Reason::Userland { machine: host.machine.clone(), bits: host.userland_bits });
    }
    Ok(())
}

fn options<'a>(
    model: &ModelFacts,
    candidates: &'a [Candidate],
    want: &Want,
    host: &HostFacts,
) -> Result<Vec<Candid<'a>>, Reason> {
    let with = |candidate| Candid::new(model, candidate, want, host);
    let find = |quant: &Quant| candidates.iter().find(|candidate| candidate.quant == Some(*quant));
    let options: Vec<_> = match &want.quants {
        Quants::AsIs => candidates.iter().take(1).map(with).collect(),
        Quants::AsIsOr(list) => {
            candidates.iter().take(1).chain(list.iter().filter_map(find)).map(with).collect()
        }
        Quants::OneOf(list) => list.iter().filter_map(find).map(with).collect(),
        Quants::Auto => {
            let all = auto_quants().filter_map(|q| candidates.iter().find(|c| c.quant == Some(q)));
            without_dominated(all.map(with).collect())
        }
    };
    if options.is_empty() { Err(Reason::NoCandidate) } else { Ok(options) }
}

/// Drops what needs at least as much memory as another and loses at least as much: what is
/// left, more memory can only make better.
fn without_dominated(mut options: Vec<Candid<'_>>) -> Vec<Candid<'_>> {
    let divergence = |option: &Candid<'_>| option.loss.map_or(f64::INFINITY, |loss| loss.divergence);
    options.sort_by(|a, b| a.least().cmp(&b.least()).then(divergence(a).total_cmp(&divergence(b))));
    let mut best = f64::INFINITY;
    options.retain(|option| {
        let is_better = divergence(option) < best;
        best = best.min(divergence(option));
        is_better
    });
    options.reverse();
    options
}

/// The fastest; among those as fast, the one that loses least.
fn fastest<'a, 'b>(options: Vec<&'b Candid<'a>>) -> Option<&'b Candid<'a>> {
    let top = options.iter().map(|option| option.answer().0).fold(0.0, f64::max);
    let as_fast = options.into_iter().filter(|option| option.answer().0 >= top * (1.0 - RATE_ERROR));
    as_fast.min_by(|a, b| by_loss(a, b))
}

/// The one that loses least.
fn best<'a, 'b>(options: Vec<&'b Candid<'a>>) -> Option<&'b Candid<'a>> {
    options.into_iter().min_by(|a, b| by_loss(a, b))
}

fn by_loss(a: &Candid<'_>, b: &Candid<'_>) -> std::cmp::Ordering {
    let divergence = |option: &Candid<'_>| option.loss.map_or(f64::INFINITY, |loss| loss.divergence);
    divergence(a).total_cmp(&divergence(b)).then(a.least().cmp(&b.least()))
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
    let rate = answer.0 - estimate.speed.answer.expected.0;
    let (sign, bytes) =
        if need >= estimate.need { ('+', need - estimate.need) } else { ('-', estimate.need - need) };
    let fits = if fitting.is_some() { "" } else { ", does not fit" };
    let text = format!("{quant}: {rate:+.1} tok/s, {sign}{bytes}, loss {old} -> {loss}{fits}");
    Some(Step { quant, answer, need, loss, fits: fitting.is_some(), text })
}

fn why(chosen: &Candid<'_>, serving: &Serving, estimate: &Estimate, room: Room, rule: &str) -> String {
    let speed = &estimate.speed;
    let layout = if serving.repack { ", repacked" } else { "" };
    let loss = chosen.loss.map_or(String::new(), |loss| format!(", loss {loss}"));
    format!(
        "{name}: {rule}; needs {need} of {room}{layout}; answers {expected} ({low:.1} to {high:.1}, {basis}), prompts {prompt}{loss}",
        name = chosen.candidate.name(),
        need = estimate.need,
        room = room.memory,
        expected = speed.answer.expected,
        low = speed.answer.low.0,
        high = speed.answer.high.0,
        basis = speed.basis.word(),
        prompt = speed.prompt.expected,
    )
}

/// Nothing could be chosen: says which bound it was, by the option that comes nearest.
fn refuse(
    model: &ModelFacts,
    candidates: &[Candidate],
    want: &Want,
    host: &HostFacts,
    room: Room,
    held: &dyn Fn(Option<Quant>) -> Bytes,
    options: &[Candid<'_>],
) -> Reason {
    let is_auto = want.quants == Quants::Auto;
    let rules = Rules::of(model, candidates, want);
    let good: Vec<&Candid<'_>> = match &rules.floor {
        Some((_, bad)) => options.iter().filter(|option| option.is_no_worse_than(bad)).collect(),
        None => options.iter().collect(),
    };
    let Some(smallest) = good.iter().min_by_key(|option| option.least()) else {
        return Reason::NoCandidate;
    };
    let least = smallest.least();
    if least > room.memory {
        let below = is_auto
            .then(|| options.iter().filter(|o| o.fit(room, held(o.candidate.quant)).is_some()).collect())
            .and_then(best)
            .and_then(|option| option.candidate.quant);
        return Reason::Memory {
            quant: smallest.candidate.quant,
            is_floor: is_auto,
            need: least,
            room: room.memory,
            remedies: Remedies {
                elsewhere: Vec::new(),
                below_floor: below,
                context: shorter(model, smallest.candidate, want, host, room, held),
            },
        };
    }
    let fitting = |o: &&&Candid<'_>| o.least() <= room.memory;
    if let Some(nearest) = good.iter().filter(fitting).min_by_key(|o| o.file() - held(o.candidate.quant)) {
        let need = nearest.file() - held(nearest.candidate.quant);
        if let Some(disk) = room.disk.filter(|disk| need > *disk) {
            let path = host.disk.as_ref().map_or_else(|| "its disk".to_owned(), |disk| disk.path.clone());
            return Reason::Disk { quant: nearest.candidate.quant, need, room: disk, path };
        }
    }
    let answer =
        good.iter().map(|option| option.slowest()).fold(TokensPerSec(0.0), |a, b| if b > a { b } else { a });
    Reason::Slow { quant: smallest.candidate.quant, answer, floor: want.floor_rate }
}

/// Returns the longest context, halved from the wanted one, with which `candidate` would fit.
fn shorter(
    model: &ModelFacts,
    candidate: &Candidate,
    want: &Want,
    host: &HostFacts,
    room: Room,
    held: &dyn Fn(Option<Quant>) -> Bytes,
) -> Option<u32> {
    // below this, a chat template and one question hardly fit
    const SHORTEST: u32 = 512;
    let halves = std::iter::successors(Some(want.context / 2), |context| Some(context / 2));
    halves.take_while(|context| *context >= SHORTEST).find(|context| {
        let want = Want { context: *context, ..want.clone() };
        Candid::new(model, candidate, &want, host).fit(room, held(candidate.quant)).is_some()
    })
}
