//! Makes the keys and certificates of a fleet as an apply does, for tests that open doors without one (`tests/page`):
//! `fleet_keys STATE FLEET HOST...` keeps them under STATE, as the operator's, and prints what each host is given.
//!
//! Beside the first client's key there are `panel`, which may read the status, and `phone`, which may ask as well.

use std::collections::BTreeMap;
use std::path::Path;

use bramble_fleet::clock;
use bramble_fleet::generation::{DoorTls, Limits, Scope};
use bramble_fleet::ids::HostName;
use bramble_fleet::keys::Safe;
use serde_json::json;

#[expect(clippy::print_stdout, reason = "what it prints is what it is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, fleet, hosts @ ..] = arguments.as_slice() else {
        return Err("fleet_keys STATE FLEET HOST...".into());
    };
    let hosts: Vec<HostName> = hosts.iter().map(|host| host.parse()).collect::<Result<_, _>>()?;
    let mut safe = Safe::open(Path::new(state), &fleet.parse()?)?;
    let first =
        safe.complete(&hosts, DoorTls::Fleet, clock::unix_seconds())?.ok_or("there are keys already")?;
    let both = vec![Scope::Infer, Scope::Status];
    let panel = safe.change_keys(|keys| keys.add("panel", vec![Scope::Status], Limits::default()))?;
    let phone = safe.change_keys(|keys| keys.add("phone", both, Limits::default()))?;
    let given =
        hosts.iter().map(|host| (host.to_string(), safe.secrets(host, DoorTls::Fleet, BTreeMap::new())));
    let told = json!({
        "keys": { "client": &*first.0, "panel": &*panel.0, "phone": &*phone.0 },
        "secrets": given.collect::<BTreeMap<_, _>>(),
    });
    println!("{told}");
    Ok(())
}
