use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::ids::{Generation, HostName, ModelName};

const EXAMPLES: &str = "\
Examples:
  bramble check                     is the manifest right?
  bramble plan                      what would be done, and why
  bramble apply                     do it
  bramble chat kitchen 'Hello'      ask a host
  bramble status                    how are they?";

/// Deploy language models to a fleet of Raspberry Pis
#[derive(Debug, Parser)]
#[command(name = "bramble", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The manifest
    #[arg(short, long, global = true, value_name = "FILE", default_value = "fleet.yaml")]
    pub(crate) file: PathBuf,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Take host keys that are not known yet, and remember them
    #[arg(long, global = true)]
    pub(crate) accept_new_host_keys: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check the manifest, without asking any host
    Check(Check),
    /// Show what apply would do, and why
    Plan(Plan),
    /// Bring the models' weights to this machine, ahead of an apply
    Fetch(Fetch),
    /// Make the hosts run what the manifest says
    Apply(Apply),
    /// Show what the hosts run, and how they are
    Status(Status),
    /// Ask a host's model, and say who answered
    Chat(Chat),
    /// Make hosts run the generation before
    Rollback(Rollback),
    /// Take everything of Bramble off hosts
    Remove(Remove),
    /// Print the manifest's JSON Schema, for editors
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct Check {}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Keep the plan in this file, for `bramble apply FILE`
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Exit with 2 when there is something to do, 0 when there is not
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Only these models
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<ModelName>,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A plan that `bramble plan --out` kept; it is carried out without asking
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Serve what can be placed, leave out the rest
    #[arg(long)]
    pub(crate) partial: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only these hosts
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The host to ask
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// What to ask; read from standard input where it is not given
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,
    /// The model; the first one by name where it is not given
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<ModelName>,
    /// What the model is told before the question: how to answer
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// At most this many tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: u32,
    /// 0 always gives the likeliest answer
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f32,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// These hosts; all of the manifest's where none is given
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// To this generation, not to the one before
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<Generation>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// These hosts
    #[arg(value_name = "HOST", required_unless_present = "all")]
    pub(crate) hosts: Vec<HostName>,
    /// Every host of the manifest
    #[arg(long, conflicts_with = "hosts")]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}
