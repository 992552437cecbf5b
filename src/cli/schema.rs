use super::arguments::Schema;
use super::exit::Exit;
use super::output;
use crate::{manifest, view};

pub(crate) fn run(verb: &Schema) -> anyhow::Result<Exit> {
    let schema = manifest::json_schema();
    if verb.markdown {
        output::verbatim(&view::schema(&schema))?;
    } else {
        output::json(&schema)?;
    }
    Ok(Exit::Done)
}
