use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::arguments::{Convert, Global, Making, Quantize};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::brambled;
use super::output;
use crate::bundle;
use crate::catalog;
use crate::convert::{self, PromptStyle};
use crate::events::{Event, Events};
use crate::fetch::{self, Fetcher, RawHeader};
use crate::source::SourceRef;
use crate::units::Bytes;
use crate::view::Progress;
use crate::weights::{Order, Output, child};

/// Makes GGUFs of a checkpoint that is here or on the hub.
pub(crate) async fn convert(
    verb: &Convert,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let making = Work::new(environment)?;
    let given = making.source(&verb.source, verb.accept_license.as_deref()).await?;
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
        let progress = Arc::new(Progress::new(environment.is_terminal));
        let events = Events::new(move |event| progress.show(event));
        let folder = std::path::absolute(".")?;
        let settings = fetch::Settings { folder, ..fetch::Settings::from_env() };
        let fetcher = Fetcher::new(settings, events.clone())?;
        Ok(Self { environment, events, fetcher })
    }

    /// Brings a source here.
    async fn source(&self, text: &str, license: Option<&str>) -> anyhow::Result<Given> {
        let source = match text.parse() {
            Ok(SourceRef::Catalog(name)) => catalog::find(&name)?.source.clone(),
            Ok(source) => source,
            Err(_) if Path::new(text).exists() => SourceRef::File(text.to_owned()),
            Err(error) => {
                return Err(error).with_context(|| format!("{text:?} is neither a folder nor a source"));
            }
        };
        let name = match &source {
            SourceRef::File(path) => {
                let path = Path::new(path);
                let whole = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
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
        if let RawHeader::Checkpoint { config, .. } = &self.fetcher.describe(&pinned).await?.header {
            // before the weights are fetched
            convert::check(config).map_err(|error| Expected::Refused(error.to_string()))?;
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
        let progress = |done: Bytes, all: Bytes| {
            // how much there is to do is the first thing that is told
            self.events.send(if done == Bytes::ZERO {
                Event::Started { key: key.clone(), host: None, what: what.clone(), total: Some(all) }
            } else {
                Event::Progress { key: key.clone(), done }
            });
        };
        let bundles = bundle::find(&self.environment.bundles)?;
        let program = brambled(self.environment, &bundles, self.fetcher.store())?;
        let made = tokio::select! {
            made = child::run(&program, &order, progress) => made,
            _ = tokio::signal::ctrl_c() => {
                self.events.send(Event::Failed { key, error: "interrupted; nothing was kept".to_owned() });
                return Ok(Exit::Interrupted);
            }
        };
        match made {
            Ok(made) => {
                self.events.send(Event::Finished { key, outcome: None });
                if global.json {
                    output::json(&serde_json::json!({ "made": made }))?;
                } else {
                    let line =
                        |made: &crate::weights::Made| format!("{}: {}\n", made.path.display(), made.bytes);
                    output::result(&made.iter().map(line).collect::<String>());
                }
                Ok(Exit::Done)
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
