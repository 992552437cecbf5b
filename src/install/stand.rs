use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Error, files};
use crate::generation::{Definition, EngineSpec, Layout, Secrets};
use crate::ids::{Generation, ModelName};
use crate::unit::{ROUTE, Unit, engine_service};

/// A generation that is laid out on this host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stand {
    pub(super) number: Generation,
    pub(super) definition: Definition,
    pub(super) units: Vec<Unit>,
    /// None where they are not there or may not be read.
    pub(super) secrets: Option<Secrets>,
}

impl Stand {
    /// Reads a generation; fails when it is not there.
    pub(super) fn read(layout: &Layout, number: Generation) -> Result<Self, Error> {
        let dir = layout.generation(number);
        let definition: Definition =
            files::read_json(&Layout::definition(&dir))?.ok_or(Error::NoGeneration(number))?;
        let mut units = Vec::new();
        for name in files::names(&dir.join("units"))? {
            let bytes = files::read(&dir.join("units").join(&name))?.unwrap_or_default();
            units.push(Unit { name, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
        let secrets = files::read_json(&Layout::secrets(&dir)).ok().flatten();
        Ok(Self { number, definition, units, secrets })
    }

    /// Reads the generation in force, if there is one.
    pub(super) fn current(layout: &Layout) -> Result<Option<Self>, Error> {
        current(layout).map(|number| Self::read(layout, number)).transpose()
    }

    /// Returns the names of its services: the engines', then the router's.
    pub(super) fn services(&self) -> Vec<String> {
        let engines = self.definition.engines.iter().map(|spec| engine_service(&spec.model));
        engines.chain([ROUTE.to_owned()]).collect()
    }

    /// Returns the unit of a service.
    pub(super) fn unit(&self, service: &str) -> Option<&Unit> {
        let name = format!("bramble-{service}.service");
        self.units.iter().find(|unit| unit.name == name)
    }

    /// Returns the services of engines whose weights are another file since this was laid out: they may have loaded what is gone.
    pub(super) fn replaced(&self, layout: &Layout) -> BTreeSet<String> {
        let kept = files::read_json(&Layout::inodes(&layout.generation(self.number))).ok().flatten();
        let kept: BTreeMap<ModelName, u64> = kept.unwrap_or_default();
        let now = inodes(layout, &self.definition);
        let is_other =
            |(model, inode): &(&ModelName, &u64)| kept.get(*model).is_some_and(|kept| kept != *inode);
        now.iter().filter(is_other).map(|(model, _)| engine_service(model)).collect()
    }

    /// Keeps that the engines among `services` have loaded their weights as they are now.
    pub(super) fn have_loaded(&self, layout: &Layout, services: &[String]) {
        let path = Layout::inodes(&layout.generation(self.number));
        let kept = files::read_json(&path).ok().flatten();
        let mut kept: BTreeMap<ModelName, u64> = kept.unwrap_or_default();
        let mut now = inodes(layout, &self.definition);
        now.retain(|model, _| services.contains(&engine_service(model)));
        kept.extend(now);
        // without it they are started once more than need be
        if let Ok(text) = files::json("the inodes", &kept) {
            drop(files::write(&path, &text, 0o644));
        }
    }

    /// Returns whether systemd gives the door its secrets when it starts it: it reads no file of them later.
    pub(super) fn is_given_secrets(&self) -> bool {
        self.unit(ROUTE).is_some_and(|unit| unit.text.contains("\nLoadCredential="))
    }

    /// Returns whether systemd runs it.
    pub(super) fn has_units(&self) -> bool {
        !self.units.is_empty()
    }

    /// Returns whether the systemd that runs it is the login's own; none without systemd.
    pub(super) fn is_of_user(&self) -> Option<bool> {
        self.units.first().map(Unit::is_of_user)
    }
}

/// Which files its models' weights are, by model. A blob that is sent again is another file under the same name.
pub(super) fn inodes(layout: &Layout, definition: &Definition) -> BTreeMap<ModelName, u64> {
    let inode = |spec: &EngineSpec| {
        let blob = fs::metadata(layout.blob(&spec.weights.digest?)).ok()?;
        Some((spec.model.clone(), blob.ino()))
    };
    definition.engines.iter().filter_map(inode).collect()
}

/// Returns the number that `current` names, whether or not that generation is there.
pub(super) fn current(layout: &Layout) -> Option<Generation> {
    let target = fs::read_link(layout.current()).ok()?;
    target.file_name()?.to_str()?.parse().ok()
}

/// Returns the numbers of the generations that are laid out, oldest first.
pub(super) fn numbers(layout: &Layout) -> Result<Vec<Generation>, Error> {
    let names = files::names(&layout.root().join("generations"))?;
    let mut numbers: Vec<Generation> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort();
    Ok(numbers)
}
