//! Who shall run what: the manifest's deploys, host by host.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::Installed;
use crate::ids::{HostName, ModelName};
use crate::lock::Lock;
use crate::manifest::{HostSpec, Manifest, On, Via};

/// What the deploys want of the hosts that are known.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// The models that a host shall run in any case.
    pub(super) fixed: BTreeMap<HostName, BTreeSet<ModelName>>,
    /// The models that a number of hosts shall run, beside those that shall in any case.
    pub(super) counted: BTreeMap<ModelName, Counted>,
}

/// A model that a number of hosts shall run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// On how many of `hosts`.
    pub(super) count: u32,
    /// The hosts to choose from.
    pub(super) hosts: BTreeSet<HostName>,
    /// Hosts that cannot be looked at and are taken to run it, as they did.
    pub(super) away: BTreeSet<HostName>,
}

impl Wishes {
    /// Reads the deploys for the hosts of `known`; what is installed there tells who runs what now.
    ///
    /// Of a number of hosts that cannot all be looked at, those that were applied before and are
    /// missing keep their part: a host that sleeps does not make its models move.
    pub(super) fn of(
        manifest: &Manifest,
        lock: &Lock,
        known: &BTreeMap<&HostName, Option<&Installed>>,
    ) -> Self {
        let mut wishes = Self::default();
        for host in known.keys() {
            wishes.fixed.insert((*host).clone(), fixed(manifest, host, &manifest.hosts[*host]));
        }
        for deploy in &manifest.deploy {
            let On::Count(count, selector) = &deploy.on else { continue };
            let mut able: Vec<(&HostName, &HostSpec)> = manifest
                .hosts
                .iter()
                .filter(|(host, spec)| {
                    selector.matches(spec) && !fixed(manifest, host, spec).contains(&deploy.model)
                })
                .collect();
            // what is not bought yet takes no part while there are hosts that are
            let is_planned = |spec: &HostSpec| matches!(spec.via, Via::Board(_));
            if able.iter().any(|(_, spec)| !is_planned(spec)) {
                able.retain(|(_, spec)| !is_planned(spec));
            }
            let names = || able.iter().map(|(host, _)| *host);
            let runs = |host: &&HostName| known[*host].is_some_and(|found| is_running(found, &deploy.model));
            let running = names().filter(|host| known.contains_key(*host)).filter(runs).count();
            let missing = usize::try_from(*count).unwrap_or(usize::MAX).saturating_sub(running);
            let away = names().filter(|host| !known.contains_key(*host) && lock.hosts.contains_key(*host));
            let away: BTreeSet<HostName> = away.take(missing).cloned().collect();
            let counted = Counted {
                count: count.saturating_sub(u32::try_from(away.len()).unwrap_or(u32::MAX)),
                hosts: names().filter(|host| known.contains_key(*host)).cloned().collect(),
                away,
            };
            wishes.counted.insert(deploy.model.clone(), counted);
        }
        wishes
    }

    /// Returns whether a host may run a model: in any case, or as one of a number.
    pub(super) fn may(&self, host: &HostName, model: &ModelName) -> bool {
        self.is_fixed(host, model)
            || self.counted.get(model).is_some_and(|counted| counted.hosts.contains(host))
    }

    /// Returns whether a host shall run a model in any case.
    pub(super) fn is_fixed(&self, host: &HostName, model: &ModelName) -> bool {
        self.fixed.get(host).is_some_and(|models| models.contains(model))
    }

    /// Returns the hosts that shall run a model in any case.
    pub(super) fn hosts_of(&self, model: &ModelName) -> Vec<HostName> {
        let with = self.fixed.iter().filter(|(_, models)| models.contains(model));
        with.map(|(host, _)| host.clone()).collect()
    }

    /// Returns the models that a host which cannot be looked at runs or will run.
    pub(super) fn of_away(&self, manifest: &Manifest, host: &HostName) -> BTreeSet<ModelName> {
        let mut models = fixed(manifest, host, &manifest.hosts[host]);
        let counted = self.counted.iter().filter(|(_, counted)| counted.away.contains(host));
        models.extend(counted.map(|(model, _)| model.clone()));
        models
    }
}

/// Returns whether a host runs a model now.
pub(super) fn is_running(installed: &Installed, model: &ModelName) -> bool {
    let current = installed.current.as_ref();
    current.is_some_and(|(_, definition)| definition.engines.iter().any(|engine| engine.model == *model))
}

/// Returns which models a host shall run in any case.
fn fixed(manifest: &Manifest, host: &HostName, spec: &HostSpec) -> BTreeSet<ModelName> {
    let is_chosen = |on: &On| match on {
        On::Hosts(names) => names.contains(host),
        On::Every(selector) => selector.matches(spec),
        On::Count(..) => false,
    };
    manifest.deploy.iter().filter(|deploy| is_chosen(&deploy.on)).map(|deploy| deploy.model.clone()).collect()
}
