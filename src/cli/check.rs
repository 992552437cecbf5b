use super::arguments::{Check, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::{fleet, output};
use crate::view::count;

/// Says whether the manifest is right, with every fault at once.
pub(crate) fn run(_verb: &Check, global: &Global, _environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = fleet::load(&global.file)?;
    if global.json {
        output::json(&manifest)?;
    } else {
        output::result(&format!(
            "{}: fleet {}: {}, {}, {}: ok\n",
            global.file.display(),
            manifest.fleet,
            count(manifest.models.len(), "model"),
            count(manifest.hosts.len(), "host"),
            count(manifest.deploy.len(), "deploy"),
        ))?;
    }
    Ok(Exit::Done)
}
