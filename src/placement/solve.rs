//! All models, all hosts.

use std::collections::BTreeMap;

use super::refusal::{Reason, Refusal};
use super::{Capacity, Choice, Demand, Placed, Placement, Room, Short, choose, smallest};
use crate::estimate;
use crate::ids::HostName;
use crate::quant::Quant;
use crate::units::Bytes;

/// Places every demand on the hosts it asks for, as far as they have room.
///
/// Models that share a host are placed by name; each leaves the others the least that
/// they can do with, as long as all of them fit at all. Hosts that have no capacity here
/// (they could not be looked at) are left out without a word.
pub fn solve(demands: &[Demand<'_>], capacities: &[Capacity<'_>]) -> Placement {
    let hosts: BTreeMap<&HostName, &Capacity<'_>> = capacities.iter().map(|c| (&c.name, c)).collect();
    let mut order: Vec<&Demand<'_>> = demands.iter().collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));

    let mut placement = Placement::default();
    let mut assigned: BTreeMap<&HostName, Vec<&Demand<'_>>> = BTreeMap::new();
    for demand in order.iter().filter(|demand| demand.count.is_none()) {
        for host in distinct(&demand.hosts) {
            if hosts.contains_key(host) {
                assigned.entry(host).or_default().push(demand);
            }
        }
    }
    for demand in &order {
        let Some(count) = demand.count else { continue };
        place_some(demand, count, &hosts, &mut assigned, &mut placement);
    }

    for (host, demands) in &mut assigned {
        demands.sort_by(|a, b| a.name.cmp(&b.name));
        share(demands, hosts[*host], &mut placement);
    }
    point_elsewhere(&mut placement, demands, &hosts);
    placement.placed.sort_by(|a, b| (&a.host, &a.model).cmp(&(&b.host, &b.model)));
    placement.refused.sort_by(|a, b| (&a.model, &a.host).cmp(&(&b.model, &b.host)));
    placement
}

fn distinct(hosts: &[HostName]) -> Vec<&HostName> {
    let mut hosts: Vec<_> = hosts.iter().collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// All that a host has, before anything is placed.
fn whole(capacity: &Capacity<'_>) -> Room {
    let disk = capacity.facts.disk.as_ref();
    Room { memory: estimate::room(capacity.facts), disk: disk.map(|disk| disk.free - capacity.disk_reserved) }
}

fn without(room: Room, taken: Room) -> Room {
    Room {
        memory: room.memory - taken.memory,
        disk: room.disk.map(|disk| disk - taken.disk.unwrap_or_default()),
    }
}

fn held<'a>(demand: &'a Demand<'_>, capacity: &'a Capacity<'_>) -> impl Fn(Option<Quant>) -> Bytes + 'a {
    |quant| capacity.held.get(&(demand.name.clone(), quant)).copied().unwrap_or_default()
}

fn choose_for(demand: &Demand<'_>, capacity: &Capacity<'_>, room: Room) -> Result<Choice, Reason> {
    let held = held(demand, capacity);
    choose(demand.model, demand.candidates, &demand.want, capacity.facts, room, &held)
}

/// The least that `demand` can do with on a host; none where it can never run.
fn least(demand: &Demand<'_>, capacity: &Capacity<'_>) -> Option<Room> {
    smallest(demand.model, demand.candidates, &demand.want, capacity.facts, &held(demand, capacity))
}

/// Gives a demand for a number of hosts the fastest that still have room.
fn place_some<'a>(
    demand: &'a Demand<'a>,
    count: u32,
    hosts: &BTreeMap<&'a HostName, &'a Capacity<'a>>,
    assigned: &mut BTreeMap<&'a HostName, Vec<&'a Demand<'a>>>,
    placement: &mut Placement,
) {
    let mut able: Vec<(f64, &HostName)> = Vec::new();
    let mut refused: Vec<Refusal> = Vec::new();
    for host in distinct(&demand.hosts) {
        let Some((host, capacity)) = hosts.get_key_value(host) else { continue };
        let others = assigned.get(host).map(Vec::as_slice).unwrap_or_default();
        let taken = others.iter().filter_map(|other| least(other, capacity));
        match choose_for(demand, capacity, taken.fold(whole(capacity), without)) {
            Ok(choice) => able.push((choice.estimate.speed.answer.expected.0, host)),
            Err(reason) => {
                refused.push(Refusal { model: demand.name.clone(), host: (*host).clone(), reason });
            }
        }
    }
    able.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    able.truncate(wanted);
    if able.len() < wanted {
        placement.refused.extend(refused);
        let placed = u32::try_from(able.len()).unwrap_or(u32::MAX);
        placement.short.push(Short { model: demand.name.clone(), wanted: count, placed });
    }
    for (_, host) in able {
        assigned.entry(host).or_default().push(demand);
    }
}

/// Places what one host was given.
fn share(demands: &[&Demand<'_>], capacity: &Capacity<'_>, placement: &mut Placement) {
    let mut room = whole(capacity);
    let needs: Vec<Room> = demands
        .iter()
        .map(|demand| least(demand, capacity).unwrap_or(Room { memory: Bytes::ZERO, disk: None }))
        .collect();
    let sum = |of: fn(&Room) -> Bytes| needs.iter().map(of).sum::<Bytes>();
    let do_all_fit = sum(|need| need.memory) <= room.memory
        && room.disk.is_none_or(|disk| sum(|need| need.disk.unwrap_or_default()) <= disk);

    for (at, demand) in demands.iter().enumerate() {
        // where not all fit, the first ones get what they want and the others are refused
        let kept = if do_all_fit { &needs[at + 1..] } else { &[] };
        let offered = kept.iter().copied().fold(room, without);
        match choose_for(demand, capacity, offered) {
            Ok(choice) => {
                let held = held(demand, capacity)(choice.quant);
                let taken = Room { memory: choice.estimate.need, disk: Some(choice.estimate.file - held) };
                room = without(room, taken);
                let (host, model) = (capacity.name.clone(), demand.name.clone());
                placement.placed.push(Placed { host, model, choice });
            }
            Err(reason) => {
                let (host, model) = (capacity.name.clone(), demand.name.clone());
                placement.refused.push(Refusal { model, host, reason });
            }
        }
    }
}

/// Names, in refusals for want of memory, hosts that would still have room for the model.
fn point_elsewhere(
    placement: &mut Placement,
    demands: &[Demand<'_>],
    hosts: &BTreeMap<&HostName, &Capacity<'_>>,
) {
    let mut left: BTreeMap<&HostName, Room> = hosts.iter().map(|(name, c)| (*name, whole(c))).collect();
    for placed in &placement.placed {
        if let Some(room) = left.get_mut(&placed.host) {
            *room = without(
                *room,
                Room { memory: placed.choice.estimate.need, disk: Some(placed.choice.estimate.file) },
            );
        }
    }
    let runs =
        |host: &HostName, model: &_| placement.placed.iter().any(|p| &p.host == host && &p.model == model);
    for refusal in &mut placement.refused {
        let Reason::Memory { remedies, .. } = &mut refusal.reason else { continue };
        let Some(demand) = demands.iter().find(|demand| demand.name == refusal.model) else { continue };
        let fits = |(name, capacity): &(&&HostName, &&Capacity<'_>)| {
            **name != &refusal.host
                && (runs(name, &refusal.model) || choose_for(demand, capacity, left[**name]).is_ok())
        };
        remedies.elsewhere = hosts.iter().filter(fits).map(|(name, _)| (*name).clone()).collect();
    }
}
