//! Whom a host trusts is of today, whatever generation it runs.
//!
//! A generation has secrets of its own, so that it comes into force as a whole. Two things are not its own: where somebody has
//! a host go back, it does so with the keys and certificates of the generation in force; and as a new one comes in, the one that
//! the host may go back to by itself gets its clients' keys and what it has revoked, and keeps its certificate, with which it
//! worked. Neither crosses from one fleet to another. Where doors have begun or ceased to speak TLS in between, how hosts know
//! each other is the generation's own.

use super::stand::Stand;
use super::{Error, files};
use crate::authority;
use crate::generation::{
    Definition, ForeignKeys, KeyEntry, Layout, Scope, Secrets, UpstreamKind, UpstreamSpec,
};

/// Gives `earlier` the secrets that a host has which goes back to it from `now`: who comes in, who the host is, whom nobody
/// trusts any more, and the keys of foreign servers that are where they were. What cannot be read takes nothing away.
pub(super) fn bring_up_to_date(layout: &Layout, earlier: &Stand, now: &Stand) -> Result<(), Error> {
    match brought_up_to_date(earlier, now) {
        Some(secrets) => write(layout, earlier, &secrets),
        None => Ok(()),
    }
}

/// Has `previous` let in whom `next` lets in, and trust nobody whom `next` does not.
pub(super) fn admit_as(layout: &Layout, previous: &Stand, next: &Stand) -> Result<(), Error> {
    match admitting_as(previous, next) {
        Some(secrets) => write(layout, previous, &secrets),
        None => Ok(()),
    }
}

fn write(layout: &Layout, stand: &Stand, secrets: &Secrets) -> Result<(), Error> {
    if stand.secrets.as_ref() == Some(secrets) {
        return Ok(());
    }
    let path = Layout::secrets(&layout.generation(stand.number));
    files::write(&path, &files::json("the secrets", secrets)?, 0o600)
}

pub(super) fn brought_up_to_date(earlier: &Stand, now: &Stand) -> Option<Secrets> {
    let (then, today) = (&earlier.definition, &now.definition);
    let secrets = now.secrets.as_ref().filter(|_| then.fleet == today.fleet)?;
    let own = earlier.secrets.clone().unwrap_or_default();
    let foreign_keys = foreign_keys((then, &own), (today, secrets));
    if then.door.tls != today.door.tls {
        return Some(Secrets { keys: clients_of(secrets, &own), foreign_keys, ..own });
    }
    let mut brought = Secrets { foreign_keys, ..secrets.clone() };
    if then.host != today.host {
        // it proves that it is who it was, by a certificate of that name
        brought.identity = own.identity;
        revoke(&mut brought, secrets);
    }
    Some(brought)
}

pub(super) fn admitting_as(previous: &Stand, next: &Stand) -> Option<Secrets> {
    let later = next.secrets.as_ref().filter(|_| previous.definition.fleet == next.definition.fleet)?;
    let mut secrets = previous.secrets.clone()?;
    secrets.keys = clients_of(later, &secrets);
    revoke(&mut secrets, later);
    Some(secrets)
}

/// Has `secrets` trust nobody whom `later` does not. A host goes on as who it is, whatever others think of that.
fn revoke(secrets: &mut Secrets, later: &Secrets) {
    if let (Some(own), Some(later)) = (&mut secrets.identity, &later.identity) {
        let itself = authority::key_of(&own.certificate).ok();
        own.revoked.extend(later.revoked.iter().filter(|key| Some(**key) != itself));
    }
}

/// Returns the keys of the clients of `today`, and those of the hosts of `own`.
fn clients_of(today: &Secrets, own: &Secrets) -> Vec<KeyEntry> {
    let hosts = own.keys.iter().filter(|entry| is_of_hosts(entry));
    hosts.chain(today.keys.iter().filter(|entry| !is_of_hosts(entry))).cloned().collect()
}

fn is_of_hosts(entry: &KeyEntry) -> bool {
    entry.scopes.contains(&Scope::Peer)
}

/// Returns the keys of the foreign servers of `then`: those of today where today's servers of these names are at the same
/// addresses. What is given to one server is not shown to another.
fn foreign_keys(then: (&Definition, &Secrets), today: (&Definition, &Secrets)) -> ForeignKeys {
    let places = |definition: &Definition| -> Vec<(String, String)> {
        let place = |upstream: &UpstreamSpec| match &upstream.kind {
            UpstreamKind::Foreign { url, key: Some(key) } => Some((key.clone(), url.clone())),
            _ => None,
        };
        definition.door.upstreams.iter().filter_map(place).collect()
    };
    let known = places(today.0);
    let key = |place: (String, String)| {
        let from = if known.contains(&place) { today.1.foreign_keys.get(&place.0) } else { None };
        let key = from.or_else(|| then.1.foreign_keys.get(&place.0))?.clone();
        Some((place.0, key))
    };
    places(then.0).into_iter().filter_map(key).collect()
}
