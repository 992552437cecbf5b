//! How much of a model the graphics processors of a host compute.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// What stays free on each card, for the buffers of its driver and for whatever else draws there: twice what the Vulkan
/// backend takes for itself beside weights, caches and graphs.
const MARGIN: Bytes = Bytes::mib(512);

/// What a model holds beside its weights where no plan has counted it: a part of them.
const UNCOUNTED: u64 = 4;

/// A graphics processor, as llama.cpp sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its number among llama.cpp's devices.
    pub index: usize,
    /// What its driver calls it.
    pub name: String,
    /// Whether its memory is the host's.
    pub is_integrated: bool,
    /// The memory on it that is free.
    pub free: Bytes,
}

/// What of a model graphics processors compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// The cards, by what their drivers call them.
    pub cards: Vec<String>,
    /// Their numbers among llama.cpp's devices.
    #[serde(skip)]
    pub indices: Vec<usize>,
    /// Layers that they compute, of `of`; the head counts as one.
    pub layers: u32,
    /// Layers of the model with its head.
    pub of: u32,
}

/// Decides how much of a model of `blocks` layers goes to `cards`: all where there is the room for the `need` that the plan
/// counted (0: it did not), else as many layers as have room, each taken for as large as the others, and the head last.
/// None where that is nothing.
///
/// Cards with memory of their own are used together, and others only where there are none: the first of them then, as
/// they share the host's memory.
pub fn offload(cards: &[Card], blocks: u32, weights: Bytes, need: Bytes) -> Option<Offload> {
    let mut used: Vec<&Card> = cards.iter().filter(|card| !card.is_integrated).collect();
    if used.is_empty() {
        used = cards.iter().take(1).collect();
    }
    let room = |card: &Card| card.free.0.saturating_sub(MARGIN.0);
    used.retain(|card| room(card) > 0);
    let all = need.0.max(if need == Bytes::ZERO { weights.0 + weights.0 / UNCOUNTED } else { weights.0 });
    let of = blocks.saturating_add(1);
    let each = all.div_ceil(u64::from(of)).max(1);
    // a layer lies on one card
    let fit: u64 = used.iter().map(|card| room(card) / each).sum();
    let layers = u32::try_from(fit).unwrap_or(of).min(of);
    (layers > 0).then(|| Offload {
        cards: used.iter().map(|card| card.name.clone()).collect(),
        indices: used.iter().map(|card| card.index).collect(),
        layers,
        of,
    })
}

/// Why the graphics processors that a program was built for compute nothing, as far as what was loaded tells.
///
/// `built` are the libraries beside the program, `loaded` those of them that run there, both by what they speak: `vulkan`.
#[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "only llama.cpp has cards"))]
pub(super) fn absence(built: &[String], loaded: &[String], cards: &[Card]) -> Option<String> {
    let missing: Vec<&str> = built.iter().filter(|name| !loaded.contains(name)).map(String::as_str).collect();
    if !cards.is_empty() || built.is_empty() {
        return None;
    }
    Some(if missing.is_empty() {
        format!("no graphics processor answers by {} (is its driver installed?)", loaded.join(", "))
    } else {
        let library = |name: &&str| match *name {
            "vulkan" => "vulkan (is libvulkan1 installed?)".to_owned(),
            other => format!("{other} (are its maker's libraries installed?)"),
        };
        format!(
            "what speaks to graphics processors cannot be loaded: {}",
            missing.iter().map(library).collect::<Vec<_>>().join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn card(index: usize, is_integrated: bool, free: Bytes) -> Card {
        Card { index, name: format!("card {index}"), is_integrated, free }
    }

    fn layers(cards: &[Card], need: Bytes) -> u32 {
        offload(cards, 31, Bytes::gib(4), need).map_or(0, |gpu| gpu.layers)
    }

    #[test]
    fn a_model_goes_to_a_card_whole_or_by_layers_or_not_at_all() {
        let with = |free| layers(&[card(0, false, free)], Bytes::gib(8));
        assert_eq!(with(Bytes::gib(8) + MARGIN), 32);
        assert_eq!(with(Bytes::gib(8) + MARGIN - Bytes(1)), 31);
        assert_eq!(with(Bytes::gib(4) + MARGIN), 16);
        assert_eq!(with(Bytes::mib(256) + MARGIN - Bytes(1)), 0);
        assert_eq!(with(Bytes::mib(100)), 0);
    }

    #[test]
    fn what_no_plan_has_counted_is_a_quarter_over_the_weights() {
        let with = |free| layers(&[card(0, false, free)], Bytes::ZERO);
        assert_eq!((with(Bytes::gib(5) + MARGIN), with(Bytes::gib(5))), (32, 28));
    }

    #[test]
    fn cards_with_memory_of_their_own_work_together_and_the_others_only_without_them() {
        let (small, inside) = (Bytes::gib(4) + MARGIN, card(0, true, Bytes::gib(64)));
        let all = [inside.clone(), card(1, false, small), card(2, false, small), card(3, false, MARGIN)];
        let gpu = offload(&all, 31, Bytes::gib(4), Bytes::gib(8)).unwrap();
        assert_eq!((gpu.indices, gpu.layers, gpu.of), (vec![1, 2], 32, 32));
        let two = [inside, card(1, true, Bytes::gib(64))];
        assert_eq!(offload(&two, 31, Bytes::gib(4), Bytes::gib(8)).unwrap().cards, ["card 0"]);
        assert_eq!(offload(&[], 31, Bytes::gib(4), Bytes::gib(8)), None);
    }

    #[test]
    fn why_nothing_is_used_is_said() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (vulkan, none) = (names(&["vulkan"]), names(&[]));
        assert!(absence(&vulkan, &none, &[]).unwrap().contains("libvulkan1"));
        assert!(absence(&names(&["cuda"]), &none, &[]).unwrap().contains("cuda (are its maker's"));
        assert!(absence(&vulkan, &vulkan, &[]).unwrap().contains("driver"));
        assert_eq!(absence(&vulkan, &vulkan, &[card(0, false, MARGIN)]), None);
        assert_eq!(absence(&none, &none, &[]), None);
    }

    proptest! {
        #[test]
        fn layers_never_take_more_than_there_is_and_more_room_never_means_fewer(
            frees in prop::collection::vec(0u64..1 << 36, 1..4), more in 0u64..1 << 36,
            weights in 1u64..1 << 40, need in 0u64..1 << 40, blocks in 1u32..512,
        ) {
            let with = |more: u64| {
                let cards: Vec<Card> =
                    frees.iter().enumerate().map(|(n, free)| card(n, false, Bytes(free + more))).collect();
                offload(&cards, blocks, Bytes(weights), Bytes(need)).map_or(0, |gpu| gpu.layers)
            };
            let layers = with(0);
            prop_assert!(layers <= blocks + 1 && layers <= with(more));
            let taken = u128::from(layers) * u128::from(weights.max(need)) / u128::from(blocks + 1);
            prop_assert!(taken <= frees.iter().map(|free| u128::from(*free)).sum());
        }
    }
}
