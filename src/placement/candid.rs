//! What could run on a host for one demand, in the order in which it is taken.

use super::refusal::Reason;
use super::{Lean, Quants, Room, Want};
use crate::catalog::ModelFacts;
use crate::estimate::{
    Attention, Candidate, Estimate, Loss, Serving, footprint, is_repacking, loss_of, refusal,
};
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

/// Rates below this count as this: a token in eleven days.
const SLOWEST: f64 = 1e-6;

/// The cost of an option, for comparing it with others of the same demand, and for weighing
/// demands against each other where they share hosts. Its terms, each small against the one before it:
///
/// - [`BELOW`], and five times the logarithm of the loss against the target's, where the loss is
///   beyond the target; of a list, [`BELOW`] for each that stands before it;
/// - less the logarithm of the answer rate, in steps of [`RATE_ERROR`];
/// - [`BY_LOSS`] for each option of the same step that loses less;
/// - [`PACKED_KV`] where keys and values are packed: that loses less than any step between quants does, so
///   that it comes before the next quant, and after every other way to serve this one;
/// - [`BY_SERVING`] for each way of serving it that is faster.
///
/// So twice as fast is worth 0.69, on any host, and a model that leaves its target costs as much
/// as a few thousand million times the speed could give: it never does so for speed's sake.
mod costs {
    /// Keeps every cost above zero: no rate exceeds e^10 tokens per second.
    pub(super) const BASE: f64 = 10.0;
    pub(super) const BELOW: f64 = 20.0;
    pub(super) const BY_LOSS: f64 = 1e-3;
    pub(super) const PACKED_KV: f64 = 3e-4;
    pub(super) const BY_SERVING: f64 = 4e-5;
}

/// Returns the quants that `auto` chooses among: those whose loss is measured for
/// quantizing without an importance matrix, and that are smaller than the original.
pub fn auto_quants() -> impl Iterator<Item = Quant> {
    let is_out =
        |quant: &Quant| matches!(quant, Quant::F32 | Quant::F16 | Quant::Bf16 | Quant::Iq4Nl | Quant::Iq4Xs);
    Quant::ALL.iter().copied().filter(move |quant| !is_out(quant))
}

/// A candidate, with what it would take and give.
pub(super) struct Candid<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) loss: Option<Loss>,
    /// The servings, fastest first, those with packed keys and values last. Never empty.
    pub(super) servings: Vec<(Serving, Estimate)>,
    /// What it costs to take this one; none where the rules do not allow it.
    pub(super) cost: Option<f64>,
}

impl<'a> Candid<'a> {
    pub(super) fn new(model: &ModelFacts, candidate: &'a Candidate, want: &Want, host: &HostFacts) -> Self {
        let mut all = servings(model, candidate, want, host, KvType::F16);
        // where llama.cpp can
        let packed = servings(model, candidate, want, host, KvType::Q8_0).into_iter();
        all.extend(packed.filter(|(serving, _)| refusal(model, serving, Attention::Flash).is_none()));
        Self { candidate, loss: candidate.loss(model), servings: all, cost: None }
    }

    /// Returns the fastest serving that fits.
    pub(super) fn fit(&self, room: Room, held: Bytes) -> Option<(Serving, Estimate)> {
        let way = (0..self.servings.len()).find(|way| self.has_room(*way, room, held))?;
        self.servings.get(way).copied()
    }

    /// Returns whether the serving of this number fits.
    pub(super) fn has_room(&self, way: usize, room: Room, held: Bytes) -> bool {
        self.servings.get(way).is_some_and(|(_, estimate)| {
            estimate.need <= room.memory && room.disk.is_none_or(|disk| estimate.file - held <= disk)
        })
    }

    /// Returns the least memory that it can do with.
    pub(super) fn least(&self) -> Bytes {
        self.leanest().map(|(_, estimate)| estimate.need).unwrap_or_default()
    }

    /// Returns the serving that takes least.
    pub(super) fn leanest(&self) -> Option<&(Serving, Estimate)> {
        self.servings.iter().min_by_key(|(_, estimate)| estimate.need)
    }

    /// Returns the answer rate for comparing quants. It does not depend on the serving.
    pub(super) fn answer(&self) -> TokensPerSec {
        self.servings.first().map_or(TokensPerSec(0.0), |(_, estimate)| estimate.speed.answer.expected)
    }

    /// Returns the rate that is held against floors: without end where nothing is known of the
    /// host's speed, as no floor can be held against that.
    pub(super) fn slowest(&self) -> TokensPerSec {
        const BEYOND_FLOORS: TokensPerSec = TokensPerSec(f64::INFINITY);
        let speed = self.servings.first().map(|(_, estimate)| &estimate.speed);
        speed.map_or(TokensPerSec(0.0), |speed| speed.least().unwrap_or(BEYOND_FLOORS))
    }

    /// Returns with how many models on its host, itself counted, it still answers at its floor while
    /// all of them answer: they share the memory's bandwidth.
    pub(super) fn most_together(&self, want: &Want) -> u32 {
        if want.quants != Quants::Auto || want.floor_rate.0 <= 0.0 {
            return u32::MAX;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a saturating cast of a rate"
        )]
        let most = (self.slowest().0 / want.floor_rate.0) as u32;
        most
    }

    pub(super) fn file(&self) -> Bytes {
        self.servings.first().map_or(Bytes::ZERO, |(_, estimate)| estimate.file)
    }

    pub(super) fn divergence(&self) -> f64 {
        self.loss.map_or(f64::INFINITY, |loss| loss.divergence)
    }

    pub(super) fn is_no_worse_than(&self, bar: &Loss) -> bool {
        self.loss.is_some_and(|loss| loss.is_within(bar))
    }

    /// Returns the cost of the option served in the way of this number.
    pub(super) fn cost_of(&self, way: usize) -> Option<f64> {
        let (serving, _) = self.servings.get(way)?;
        let packed = if serving.kv == KvType::F16 { 0.0 } else { costs::PACKED_KV };
        #[expect(clippy::cast_precision_loss, reason = "a few ways")]
        Some(self.cost? + packed + costs::BY_SERVING * way as f64)
    }
}

fn servings(
    model: &ModelFacts,
    candidate: &Candidate,
    want: &Want,
    host: &HostFacts,
    kv: KvType,
) -> Vec<(Serving, Estimate)> {
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
            kv,
        };
        let sizes = micro_batches(model, want);
        let estimate = footprint(model, candidate, &serving(sizes[0]), host);
        let of = move |size| (serving(size), estimate.with_micro_batch(model, &serving(size)));
        sizes.into_iter().map(of).collect::<Vec<_>>()
    });
    servings.collect()
}

/// Returns the micro-batches to choose from, largest first.
fn micro_batches(model: &ModelFacts, want: &Want) -> Vec<u32> {
    match model.decoder_layers {
        // an encoder reads all of a prompt at once
        Some(_) => vec![want.context],
        None => MICRO_BATCHES.to_vec(),
    }
}

/// Returns whether a model may be served so for what is wanted of it. What a host says that it runs may be anything.
pub fn is_offered(model: &ModelFacts, want: &Want, serving: &Serving) -> bool {
    (serving.context, serving.slots) == (want.context, want.slots)
        && micro_batches(model, want).contains(&serving.micro_batch)
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

/// The bars of `auto`, with the quants that they are named for; none for explicit choices.
pub(super) struct Bars {
    pub(super) target: (Quant, Loss),
    pub(super) floor: (Quant, Loss),
}

impl Bars {
    pub(super) fn of(model: &ModelFacts, candidates: &[Candidate], want: &Want) -> Option<Self> {
        if want.quants != Quants::Auto {
            return None;
        }
        let named = |quant: Quant| (quant, loss_on(model, quant, candidates));
        let floor = named(want.floor_quality);
        let target = named(target(model, want.lean));
        // a floor above the target is the target
        let target = if target.1.divergence > floor.1.divergence { floor } else { target };
        Some(Self { target, floor })
    }
}

/// Returns what could run on `host` at all, best first: what is allowed with its cost, cheapest
/// first, then what the floor keeps out.
///
/// # Errors
/// A host that nothing of ours can run on; a model that none of the wanted quants can be made of.
pub(super) fn options<'a>(
    model: &ModelFacts,
    candidates: &'a [Candidate],
    want: &Want,
    host: &HostFacts,
) -> Result<Vec<Candid<'a>>, Reason> {
    userland(host)?;
    let with = |candidate| Candid::new(model, candidate, want, host);
    let find = |quant: &Quant| candidates.iter().find(|candidate| candidate.quant == Some(*quant));
    let mut options: Vec<_> = match &want.quants {
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
    if options.is_empty() {
        return Err(Reason::NoCandidate);
    }
    match Bars::of(model, candidates, want) {
        Some(bars) => price_by_rule(&mut options, &bars, want),
        None => price_by_order(&mut options),
    }
    let key = |option: &Candid<'_>| option.cost.unwrap_or(f64::INFINITY);
    options.sort_by(|a, b| key(a).total_cmp(&key(b)));
    Ok(options)
}

fn userland(host: &HostFacts) -> Result<(), Reason> {
    let is_64 = ["aarch64", "x86_64"].contains(&host.machine.as_str());
    if !is_64 || host.userland_bits == Some(32) {
        return Err(Reason::Userland { machine: host.machine.clone(), bits: host.userland_bits });
    }
    Ok(())
}

/// Drops what needs at least as much memory as another and loses at least as much: what is
/// left, more memory can only make better.
fn without_dominated(mut options: Vec<Candid<'_>>) -> Vec<Candid<'_>> {
    options.sort_by(|a, b| a.least().cmp(&b.least()).then(a.divergence().total_cmp(&b.divergence())));
    let mut best = f64::INFINITY;
    options.retain(|option| {
        let is_better = option.divergence() < best;
        best = best.min(option.divergence());
        is_better
    });
    options
}

/// Prices the options of `auto`: the fastest that lose no more than the target, then what loses
/// least; nothing below the floors.
fn price_by_rule(options: &mut [Candid<'_>], bars: &Bars, want: &Want) {
    options.sort_by(|a, b| a.divergence().total_cmp(&b.divergence()).then(a.least().cmp(&b.least())));
    let is_good = |option: &Candid<'_>| option.is_no_worse_than(&bars.target.1);
    let top = options.iter().filter(|option| is_good(option)).map(|o| o.answer().0).fold(SLOWEST, f64::max);
    for (rank, option) in options.iter_mut().enumerate() {
        let is_allowed = option.is_no_worse_than(&bars.floor.1) && option.slowest() >= want.floor_rate;
        let rate = option.answer().0.max(SLOWEST);
        #[expect(clippy::cast_precision_loss, reason = "a score of options")]
        let by_loss = costs::BY_LOSS * rank as f64;
        let cost = if is_good(option) {
            let steps = ((top / rate).ln() / RATE_ERROR).floor();
            costs::BASE - top.ln() + RATE_ERROR * steps + by_loss
        } else {
            let beyond = (option.divergence() / bars.target.1.divergence).ln();
            costs::BASE - rate.ln() + costs::BELOW + 5.0 * beyond + by_loss
        };
        option.cost = is_allowed.then_some(cost.max(0.0));
    }
}

/// Prices the options of a list: the first that fits, whatever its speed.
fn price_by_order(options: &mut [Candid<'_>]) {
    for (rank, option) in options.iter_mut().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a score of options")]
        let before = costs::BELOW * rank as f64;
        let rate = option.answer().0.max(SLOWEST);
        option.cost = Some((costs::BASE - rate.ln() + before).max(0.0));
    }
}
