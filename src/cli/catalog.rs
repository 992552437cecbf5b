use std::collections::BTreeMap;

use serde::Serialize;

use super::arguments::Global;
use super::environment::Environment;
use super::exit::Exit;
use super::output;
use crate::catalog::{self, KnownModel};
use crate::units::Bytes;
use crate::view::Table;

/// A model, with what its weights will take.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    model: &'static KnownModel,
    /// Forecast bytes of the weights by quant, the vocabulary not counted.
    bytes: BTreeMap<String, Bytes>,
}

/// Lists the well-known models and what they take: no host and no hub is asked.
pub(crate) fn run(global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let all: Vec<Listed> = catalog::all().map(|model| Listed { model, bytes: model.forecast() }).collect();
    if global.json {
        output::json(&all)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["MODEL", "PARAMETERS", "Q4_K_M", "Q8_0", "CONTEXT", "PROMPT", "LICENSE"]);
    for Listed { model, bytes } in &all {
        let forecast = |quant: &str| bytes.get(quant).map_or_else(String::new, Bytes::to_string);
        let figures = &model.figures;
        table.row([
            model.name.clone(),
            millions(model.parameters),
            forecast("Q4_K_M"),
            forecast("Q8_0"),
            format!("{}{}", figures.context, if figures.is_unchecked { "?" } else { "" }),
            model.prompt.word().to_owned(),
            format!("{}{}", model.license, if model.is_gated { ", gated" } else { "" }),
        ]);
    }
    let mut text = table.render(0, environment.style);
    text.push_str("\nForecasts, without the vocabulary. ?: not seen in the published configuration. ");
    text.push_str("What a source says counts more: `bramble plan` asks it.\n");
    output::result(&text)?;
    Ok(Exit::Done)
}

/// Shows a number of parameters: `135 M`, `6.7 B`.
fn millions(parameters: u64) -> String {
    let millions = parameters as f64 / 1e6;
    if millions < 999.5 { format!("{millions:.0} M") } else { format!("{:.1} B", millions / 1e3) }
}
