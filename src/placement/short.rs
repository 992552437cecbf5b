//! Why a model is on fewer hosts than wanted: the hosts by the bound that each one hits, and the
//! one that comes nearest.

use std::fmt::Write as _;

use super::refusal::{Reason, floor_at};
use super::{Refusal, Short};
use crate::units::Bytes;

/// The hosts that hit one bound, in the words of a message.
struct Bound<'a> {
    words: &'static str,
    hosts: Vec<&'a Refusal>,
}

impl Short {
    /// Puts into words what the hosts that were refused lack; `refused` may speak of other models too.
    pub fn message(&self, refused: &[Refusal]) -> String {
        let mine: Vec<&Refusal> = refused.iter().filter(|refusal| refusal.model == self.model).collect();
        let hosts = if self.wanted == 1 { "host" } else { "hosts" };
        let mut text =
            format!("{} is wanted on {} {hosts} and fits on {}", self.model, self.wanted, self.placed);
        let bounds = bounds(&mine);
        if bounds.is_empty() {
            text.push_str("; no other host may have it");
        }
        for (at, bound) in bounds.iter().enumerate() {
            let before = if at == 0 { "; others that may have it: " } else { ", " };
            let _ = write!(text, "{before}{} {}", bound.hosts.len(), bound.words);
            if let Some(nearest) = nearest(&bound.hosts) {
                let _ = write!(text, " ({nearest})");
            }
        }
        let ways = self.ways(&mine);
        if !ways.is_empty() {
            let _ = write!(text, "; one more fits {}", ways.join(", or "));
        }
        if self.placed > 0 {
            let _ = write!(text, "; or ask for {}", self.placed);
        }
        text
    }

    /// Names what would let one more host have it, each by itself: the least change of its kind.
    fn ways(&self, mine: &[&Refusal]) -> Vec<String> {
        let mut ways = Vec::new();
        let contexts = mine.iter().filter_map(|refusal| match &refusal.reason {
            Reason::Memory { remedies, .. } => Some((remedies.context?, &refusal.host)),
            _ => None,
        });
        if let Some((context, host)) = contexts.max_by_key(|(context, _)| *context) {
            ways.push(format!("on {host} with context {context}"));
        }
        let quants = mine.iter().filter_map(|refusal| match &refusal.reason {
            Reason::Memory { remedies, .. } => Some((remedies.below_floor?, &refusal.host)),
            _ => None,
        });
        if let Some((quant, host)) = quants.min_by_key(|(quant, _)| *quant) {
            ways.push(format!("on {host} at {quant}, below the floor"));
        }
        let rates = mine.iter().filter_map(|refusal| match &refusal.reason {
            Reason::Slow { answer, .. } => Some((*answer, &refusal.host)),
            Reason::Shared { slow, answer, .. } if *slow == self.model => Some((*answer, &refusal.host)),
            _ => None,
        });
        if let Some((answer, host)) = rates.max_by(|a, b| a.0.0.total_cmp(&b.0.0)) {
            ways.push(format!("on {host} with a floor of {} tok/s", floor_at(answer)));
        }
        ways
    }
}

fn bounds<'a>(mine: &[&'a Refusal]) -> Vec<Bound<'a>> {
    type Is = fn(&Reason) -> bool;
    let kinds: [(&str, Is); 6] = [
        ("with too little memory", |reason| matches!(reason, Reason::Memory { .. })),
        ("with too little disk", |reason| matches!(reason, Reason::Disk { .. })),
        ("too slow", |reason| matches!(reason, Reason::Slow { .. })),
        ("with models that it would slow down too far", |reason| matches!(reason, Reason::Shared { .. })),
        ("without a 64-bit system", |reason| matches!(reason, Reason::Userland { .. })),
        ("without a quant that can be made", |reason| matches!(reason, Reason::NoCandidate)),
    ];
    let bound = |(words, is): (&'static str, Is)| Bound {
        words,
        hosts: mine.iter().copied().filter(|refusal| is(&refusal.reason)).collect(),
    };
    kinds.into_iter().map(bound).filter(|bound| !bound.hosts.is_empty()).collect()
}

/// Says which of the hosts that hit one bound comes nearest, and how near.
fn nearest(hosts: &[&Refusal]) -> Option<String> {
    let lacking = |reason: &Reason| match reason {
        Reason::Memory { need, room, .. } | Reason::Disk { need, room, .. } => Some(*need - *room),
        _ => None,
    };
    let short = hosts.iter().filter_map(|refusal| Some((lacking(&refusal.reason)?, refusal)));
    if let Some((bytes, refusal)) = short.min_by_key(|(bytes, _)| *bytes) {
        let at = match &refusal.reason {
            Reason::Memory { quant: Some(quant), .. } | Reason::Disk { quant: Some(quant), .. } => {
                format!(" at {quant}")
            }
            _ => String::new(),
        };
        return Some(format!("nearest {}, short by {}{at}", refusal.host, bytes.max(Bytes::kib(1))));
    }
    let rates = hosts.iter().filter_map(|refusal| match &refusal.reason {
        Reason::Slow { answer, floor, .. } | Reason::Shared { answer, floor, .. } => {
            Some((answer.0 / floor.0.max(1e-9), *answer, *floor, &refusal.host))
        }
        _ => None,
    });
    let (_, answer, floor, host) = rates.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("nearest {host}, {} of {} tok/s", floor_at(answer), floor.0))
}
