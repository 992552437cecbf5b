//! What the user wrote: `fleet.yaml` as checked values.
//!
//! Parsing finds every fault at once, each with its line and column. A key that a room
//! cannot act on yet is a fault too, with words that say so. Nothing is read but the
//! text: whether a file, host or repository exists is for others to find out.

mod check;
mod schema;
mod written;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

pub use crate::yaml::{Kind as ProblemKind, Place, Problems};
pub use schema::{
    Caps, Deploy, Floor, GpuMode, HostSpec, Imatrix, Manifest, ModelSpec, On, Prefer, QuantChoice, Role,
    Rollout, RouteMode, RoutePolicy, Selector, Serve, SshOptions, Supervisor, Tls, Via, Wake,
};

use crate::yaml::{self, Faults, Kind, Problem, Read, Span};

/// Reads a manifest. `file_name` is for messages only.
///
/// On failure, every fault of the text is named; after one that makes the text
/// unreadable as YAML, that one alone.
pub fn parse(file_name: &str, text: &str) -> Result<Manifest, Problems> {
    let mut faults = Faults::new(file_name, text);
    let manifest = yaml::parse(&mut faults)
        .and_then(|node| written::Root::read(&node, &mut faults))
        .and_then(|fleet| check::manifest(fleet, &mut faults));
    match manifest {
        Some(manifest) if faults.is_empty() => Ok(manifest),
        _ => Err(faults.into_problems()),
    }
}

/// Reads a manifest from the bytes of a file, which may turn out not to be text.
pub fn parse_bytes(file_name: &str, bytes: &[u8]) -> Result<Manifest, Problems> {
    let error = match str::from_utf8(bytes) {
        Ok(text) => return parse(file_name, text),
        Err(error) => error,
    };
    let good = str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
    // what follows is shown as replacements, up to the end of its line
    let rest = bytes[error.valid_up_to()..].split(|&b| b == b'\n').next().unwrap_or_default();
    let text = format!("{good}{}", String::from_utf8_lossy(&rest[..rest.len().min(200)]));
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let message = if is_utf16 { "the file is UTF-16" } else { "this is not UTF-8 text" };
    let place = Span { start: good.len(), end: good.len() };
    let mut faults = Faults::new(file_name, &text);
    faults.push(Problem::new(Kind::Syntax, place, message).help("save the file as UTF-8"));
    Err(faults.into_problems())
}

/// Returns the JSON Schema of a manifest as it is written, for editors.
///
/// It is made from the types that read the text, so that it takes the keys and forms that the
/// parser takes; what parts mean together, only the parser knows.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<written::Root>();
    schema.insert("title".to_owned(), "Bramble manifest".into());
    schema.to_value()
}
