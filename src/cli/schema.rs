use super::exit::Exit;
use super::output;
use crate::manifest;

pub(crate) fn run() -> anyhow::Result<Exit> {
    output::json(&manifest::json_schema())?;
    Ok(Exit::Done)
}
