//! Serves folders as repositories of a model hub, on loopback, for trying things out
//! without the real one.
//!
//! `cargo run --example hub_double -- --dir DIR` serves `DIR/ORG/REPO/…`; set
//! `HF_ENDPOINT` to the address that it prints.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser;

#[path = "../tests/support/hub.rs"]
#[expect(dead_code, reason = "faults and the record are for tests")]
mod hub;

/// Serve folders as repositories of a model hub
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder with ORG/REPO/… in it
    #[arg(long)]
    dir: PathBuf,
    /// The TCP port on loopback; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Write the port to this file once it is open
    #[arg(long)]
    port_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let hub = hub::Hub::serve(&arguments.dir, arguments.port).await?;
    writeln!(std::io::stdout(), "HF_ENDPOINT={}", hub.endpoint)?;
    if let Some(path) = &arguments.port_file {
        // whoever waits for the file never reads half of it
        let whole = path.with_added_extension("new");
        std::fs::write(&whole, format!("{}\n", hub.endpoint.rsplit(':').next().unwrap_or_default()))?;
        std::fs::rename(&whole, path)?;
    }
    tokio::signal::ctrl_c().await
}
