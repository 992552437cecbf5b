//! All models, all hosts.

use std::collections::BTreeMap;

use super::candid::{Candid, options};
use super::choose::Case;
use super::fleet::{Fleet, Member};
use super::refusal::{Reason, Refusal};
use super::{Capacity, Choice, Demand, Placed, Placement, Room, Short, optimum};
use crate::ids::{HostName, ModelName};
use crate::units::TokensPerSec;

/// Places the demands on the hosts they ask for: as many as can be, then at the least cost by
/// the rule of each, then with the fewest moves.
///
/// Hosts that have no capacity here (they could not be looked at) are left out without a word.
pub fn solve(demands: &[Demand<'_>], capacities: &[Capacity<'_>]) -> Placement {
    let fleet = Fleet::new(demands, capacities);
    let classes = fleet.classes();
    let optimum = optimum::solve(&fleet.problem(&classes));

    let mut placement = Placement::default();
    let mut left: BTreeMap<&HostName, Left> = BTreeMap::new();
    for (names, patterns) in classes.iter().zip(&optimum.patterns) {
        let sets =
            patterns.iter().flat_map(|pattern| std::iter::repeat_n(&pattern.items, pattern.hosts as usize));
        for (name, items) in names.iter().zip(sets) {
            let Some(host) = fleet.hosts.get(*name) else { continue };
            left.insert(name, place(&fleet, name, host, items, &mut placement));
        }
    }
    refuse(&fleet, &left, &mut placement);
    placement.placed.sort_by(|a, b| (&a.host, &a.model).cmp(&(&b.host, &b.model)));
    placement.refused.sort_by(|a, b| (&a.model, &a.host).cmp(&(&b.model, &b.host)));
    placement
}

/// What a host still has, and what it has got.
struct Left {
    room: Room,
    models: u32,
    /// Of the models that bear the fewest others beside them: its name, with how many it is
    /// together at most, and its answer rate and floor.
    tightest: Option<(ModelName, u32, TokensPerSec, TokensPerSec)>,
}

/// Gives a host the demands that were chosen for it, each in its way.
fn place(
    fleet: &Fleet<'_>,
    name: &HostName,
    host: &Member<'_>,
    items: &[(usize, usize)],
    placement: &mut Placement,
) -> Left {
    let taken: Vec<_> = items
        .iter()
        .filter_map(|(demand, way)| {
            let (option, serving) = fleet.way(host, *demand, *way)?;
            let (serving, estimate) = *option.servings.get(serving)?;
            let held = host.held(fleet.demands[*demand], option.candidate.quant);
            let room = Room { memory: estimate.need, disk: Some(estimate.file - held) };
            Some((*demand, option, serving, estimate, room))
        })
        .collect();
    let others = u32::try_from(taken.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let all = taken.iter().fold(host.room, |room, (.., own)| without(room, *own));
    for (demand, option, serving, estimate, own) in &taken {
        let room = with(all, *own);
        let choice: Choice = case(fleet, host, *demand, (room, others), |case| {
            let options = fleet.options(host, *demand).unwrap_or_default();
            case.describe(options, option, (*serving, *estimate), taken.len())
        });
        let model = fleet.demands[*demand].name.clone();
        placement.placed.push(Placed { host: name.clone(), model, choice });
    }
    let tightest = taken
        .iter()
        .map(|(demand, option, ..)| {
            let wanted = fleet.demands[*demand];
            (
                wanted.name.clone(),
                option.most_together(&wanted.want),
                option.slowest(),
                wanted.want.floor_rate,
            )
        })
        .min_by_key(|(_, most, ..)| *most);
    Left { room: all, models: u32::try_from(taken.len()).unwrap_or(u32::MAX), tightest }
}

/// Makes the case of a demand on a host that has `room` for it.
fn case<T>(
    fleet: &Fleet<'_>,
    host: &Member<'_>,
    demand: usize,
    (room, others): (Room, u32),
    use_it: impl FnOnce(Case<'_>) -> T,
) -> T {
    let wanted = fleet.demands[demand];
    let held = |quant| host.held(wanted, quant);
    use_it(Case {
        model: wanted.model,
        candidates: wanted.candidates,
        want: &wanted.want,
        host: host.capacity.facts,
        room,
        others,
        held: &held,
    })
}

/// Says of each demand that did not get what it wants, host by host, why.
fn refuse(fleet: &Fleet<'_>, left: &BTreeMap<&HostName, Left>, placement: &mut Placement) {
    let mut refused = Vec::new();
    for (number, demand) in fleet.demands.iter().enumerate() {
        let has =
            |host: &HostName| placement.placed.iter().any(|p| p.model == demand.name && p.host == *host);
        let mut hosts: Vec<&HostName> = demand.hosts.iter().filter(|host| left.contains_key(host)).collect();
        hosts.sort();
        hosts.dedup();
        let got = hosts.iter().filter(|host| has(host)).count();
        let placed = u32::try_from(got).unwrap_or(u32::MAX);
        match demand.count {
            Some(wanted) if placed >= wanted => continue,
            Some(wanted) => placement.short.push(Short { model: demand.name.clone(), wanted, placed }),
            None => {}
        }
        if got == hosts.len() {
            continue;
        }
        let able = able(fleet, left, number, &has);
        for host in hosts.into_iter().filter(|host| !has(host)) {
            let reason = reason(fleet, left, number, host, &able);
            refused.push(Refusal { model: demand.name.clone(), host: host.clone(), reason });
        }
    }
    placement.refused = refused;
}

fn reason(
    fleet: &Fleet<'_>,
    left: &BTreeMap<&HostName, Left>,
    number: usize,
    host: &HostName,
    able: &[&HostName],
) -> Reason {
    let (member, left) = (&fleet.hosts[host], &left[host]);
    let options = match fleet.options(member, number) {
        Ok(options) => options,
        Err(reason) => return reason.clone(),
    };
    let demand = fleet.demands[number];
    let mut reason = case(fleet, member, number, (left.room, left.models), |case| {
        let allowed = options.iter().filter(|option| option.cost.is_some());
        let fitting = allowed
            .filter(|option| option.fit(case.room, member.held(demand, option.candidate.quant)).is_some());
        let Some(fastest) = fitting.max_by(|a, b| a.slowest().0.total_cmp(&b.slowest().0)) else {
            return case.refuse(options);
        };
        // it has room there, so somebody would get too slow
        let own = (
            demand.name.clone(),
            fastest.most_together(&demand.want),
            fastest.slowest(),
            demand.want.floor_rate,
        );
        let all = left.tightest.iter().chain([&own]);
        let (slow, _, alone, floor) = all.min_by_key(|(_, most, ..)| *most).unwrap_or(&own).clone();
        let answer = TokensPerSec(alone.0 / f64::from(left.models + 1));
        Reason::Shared { others: left.models, slow, answer, floor }
    });
    if let Reason::Memory { remedies, .. } = &mut reason {
        let others = able.iter().filter(|name| **name != host);
        remedies.elsewhere = others.map(|name| (*name).clone()).collect();
        // where one of those that are there bears no more beside it, nothing of this one's helps
        if left.tightest.as_ref().is_some_and(|(_, most, ..)| *most <= left.models) {
            (remedies.context, remedies.below_floor) = (None, None);
        }
    }
    reason
}

/// Returns the hosts that have the model, or room for it, as things are placed now.
fn able<'a>(
    fleet: &Fleet<'_>,
    left: &BTreeMap<&'a HostName, Left>,
    number: usize,
    has: &dyn Fn(&HostName) -> bool,
) -> Vec<&'a HostName> {
    let demand = fleet.demands[number];
    let is_able = |name: &&HostName| {
        let (member, left) = (&fleet.hosts[*name], &left[*name]);
        let foreign;
        let options = if member.asked.contains(&number) {
            fleet.options(member, number).unwrap_or_default()
        } else {
            foreign = options(demand.model, demand.candidates, &demand.want, member.capacity.facts);
            foreign.as_deref().unwrap_or_default()
        };
        let fits = |option: &Candid<'_>| {
            option.cost.is_some()
                && option.most_together(&demand.want) > left.models
                && left.tightest.as_ref().is_none_or(|(_, most, ..)| *most > left.models)
                && option.fit(left.room, member.held(demand, option.candidate.quant)).is_some()
        };
        has(name) || options.iter().any(fits)
    };
    left.keys().copied().filter(is_able).collect()
}

fn without(room: Room, taken: Room) -> Room {
    Room {
        memory: room.memory - taken.memory,
        disk: room.disk.map(|disk| disk - taken.disk.unwrap_or_default()),
    }
}

fn with(room: Room, given: Room) -> Room {
    Room {
        memory: room.memory + given.memory,
        disk: room.disk.map(|disk| disk + given.disk.unwrap_or_default()),
    }
}
