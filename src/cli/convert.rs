use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::arguments::{Convert, Global, Making, Quantize};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::{self, brambled};
use super::output;
use crate::bundle;
use crate::catalog;
use crate::causes::with_causes;
use crate::convert::PromptStyle;
use crate::events::{Event, Events};
use crate::fetch::{self, Fetcher};
use crate::source::SourceRef;
use crate::units::Bytes;
use crate::weights::{self, Order, Output, child};

/// Makes GGUFs of a checkpoint that is here or on the hub.
pub(crate) async fn convert(
    verb: &Convert,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let making = Work::new(environment)?;
    let given =
        making.source(&verb.source.0, verb.accept_license.as_deref(), verb.making.imatrix.as_deref()).await?;
    making.run(&verb.making, given, false, global).await
}

/// Makes GGUFs of a GGUF.
pub(crate) async fn quantize(
    verb: &Quantize,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let name = verb.gguf.file_stem().map(|name| name.to_string_lossy().into_owned());
    let name = name.with_context(|| format!("{} is no file", verb.gguf.display()))?;
    anyhow::ensure!(verb.gguf.is_file(), "{} is no file", verb.gguf.display());
    let given = Given { path: verb.gguf.clone(), name, prompt_style: None };
    Work::new(environment)?.run(&verb.making, given, verb.allow_requantize, global).await
}

/// A source that is here.
struct Given {
    path: PathBuf,
    /// What files that are made of it are called after.
    name: String,
    prompt_style: Option<PromptStyle>,
}

/// What both verbs work with.
struct Work<'a> {
    environment: &'a Environment,
    events: Events,
    fetcher: Fetcher,
}

impl<'a> Work<'a> {
    fn new(environment: &'a Environment) -> anyhow::Result<Self> {
        let events = output::events(environment);
        let folder = std::path::absolute(".")?;
        let settings = fetch::Settings { folder, ..fetch::Settings::from_env() };
        let fetcher = Fetcher::new(settings, events.clone())?;
        Ok(Self { environment, events, fetcher })
    }

    /// Brings a source here.
    async fn source(
        &self,
        source: &SourceRef,
        license: Option<&str>,
        imatrix: Option<&Path>,
    ) -> anyhow::Result<Given> {
        let source = fleet::resolve(source)?;
        let name = match &source {
            SourceRef::File(path) => {
                let path = Path::new(path);
                let whole = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
                fetch::check_folder(path)?;
                let name = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
                let name =
                    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
                return Ok(Given { path: path.to_owned(), name, prompt_style: None });
            }
            SourceRef::Hub { repo, .. } => repo.rsplit('/').next().unwrap_or(repo).to_owned(),
            _ => "model".to_owned(),
        };
        let pinned = self.fetcher.pin(&source).await?;
        self.fetcher.check_license(&pinned, license)?;
        // before the weights are fetched
        let facts = fleet::read_facts(&pinned, &self.fetcher).await;
        let facts = facts.map_err(|error| match error.downcast_ref::<catalog::Error>() {
            Some(refused) => Expected::Refused(refused.to_string()).into(),
            None => error,
        })?;
        if let Some(imatrix) = imatrix {
            weights::check_imatrix(imatrix, facts.shapes())
                .map_err(|error| Expected::Refused(with_causes(&error)))?;
        }
        let folder = self.fetcher.obtain(&pinned).await?;
        let is_gguf = pinned.is_gguf();
        let path = if is_gguf { folder.join(&pinned.files[0].path) } else { folder };
        Ok(Given { path, name, prompt_style: catalog::prompt_style(&pinned) })
    }

    async fn run(
        &self,
        making: &Making,
        Given { path: source, name, prompt_style }: Given,
        may_requantize: bool,
        global: &Global,
    ) -> anyhow::Result<Exit> {
        let mut quants = making.quants.clone();
        quants.sort_unstable();
        quants.dedup();
        std::fs::create_dir_all(&making.out)
            .with_context(|| format!("cannot make the folder {}", making.out.display()))?;
        let path = |quant| making.out.join(format!("{name}-{quant}.gguf"));
        let outputs = quants.iter().map(|quant| Output { quant: *quant, path: path(*quant) }).collect();
        let imatrix = making.imatrix.clone();
        let order = Order { source, outputs, imatrix, may_requantize, prompt_style, threads: making.threads };
        let key = "make".to_owned();
        let names: Vec<&str> = quants.iter().map(|quant| quant.name()).collect();
        let what = format!("making {} of {name}", names.join(" and "));
        let seen = Cell::new((Bytes::ZERO, Bytes::ZERO));
        let progress = |done: Bytes, all: Bytes| {
            seen.set((done, all));
            // how much there is to do is the first thing that is told
            self.events.send(if done == Bytes::ZERO {
                Event::Started { key: key.clone(), host: None, what: what.clone(), total: Some(all) }
            } else {
                Event::Progress { key: key.clone(), done, from_hosts: Bytes::ZERO }
            });
        };
        let bundles = bundle::find(&self.environment.bundles)?;
        let program = brambled(self.environment, &bundles, self.fetcher.store())?;
        let is_interrupted = Cell::new(false);
        let interrupt = async {
            if tokio::signal::ctrl_c().await.is_err() {
                // nobody can be heard: then nobody interrupts
                std::future::pending::<()>().await;
            }
            is_interrupted.set(true);
        };
        match child::run(&program, &order, interrupt, progress).await {
            Ok(made) => {
                self.events.send(Event::Finished { key, outcome: None });
                if global.json {
                    output::json(&serde_json::json!({ "made": made }))?;
                } else {
                    let line = |made: &weights::Made| format!("{}: {}\n", made.path.display(), made.bytes);
                    output::result(&made.iter().map(line).collect::<String>())?;
                }
                Ok(Exit::Done)
            }
            Err(error) if is_interrupted.get() => {
                let (done, all) = seen.get();
                let error = match error {
                    child::Error::Told { .. } => "nothing was kept".to_owned(),
                    error => error.to_string(),
                };
                if all == Bytes::ZERO {
                    output::say(&format!("Interrupted before anything was written: {error}."));
                } else {
                    self.events.send(Event::Failed { key, error: error.clone() });
                    output::say(&format!("Interrupted at {done} of {all}: {error}."));
                }
                Ok(Exit::Interrupted)
            }
            Err(error) => {
                self.events.send(Event::Failed { key, error: error.to_string() });
                if error.is_refusal() {
                    return Err(Expected::Refused(error.to_string()).into());
                }
                Err(error.into())
            }
        }
    }
}
