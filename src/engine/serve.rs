use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::care::{self, Host};
use super::gate::Known;
use super::health::Shared;
use super::http::Door;
use super::kept::Shelf;
use super::{Engine, Error, Loaded, arrivals, gate, worker};
use crate::generation::{self, Definition, EngineSpec, Layout};
use crate::ids::{Digest, Generation, ModelName};
use crate::notify::Notify;

/// How long running requests may take to end once the engine is to stop, and prompts to be written that are kept.
/// The unit gives it ten seconds more.
const DRAIN: Duration = Duration::from_secs(30);

/// How long the last replies may take on their way out after that.
const FLUSH: Duration = Duration::from_secs(2);

/// What this process serves.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) layout: Layout,
    pub(super) generation: Generation,
    pub(super) weights: PathBuf,
    pub(super) spec: EngineSpec,
    /// The program of the generation.
    pub(super) program: Digest,
    /// What its weights say of themselves.
    pub(super) known: Known,
}

/// What is done with a model while it is loaded.
pub(super) type Work<'a> = dyn FnMut(&mut dyn Engine, Loaded) -> Result<(), Error> + 'a;

/// Serves `model` of the generation that is in force under `root`, until SIGTERM or
/// SIGINT. Stays with that generation whatever `current` becomes.
pub async fn serve(root: &Path, model: &ModelName) -> Result<(), Error> {
    let mut setup = Setup::read(root, model)?;
    setup.known = gate::check(&setup.weights, &setup.spec.weights)?;
    Host::default().look().check_room(&setup.spec)?;
    if cfg!(not(feature = "llama")) {
        return Err(Error::NoLlama);
    }
    let stop = stop_signal().map_err(|source| Error::Start { what: "listening for signals", source })?;
    host(&setup, Notify::from_environment(), loader(&setup), stop).await
}

#[cfg(feature = "llama")]
use super::llama::loader;

#[cfg(not(feature = "llama"))]
fn loader(_: &Setup) -> impl FnOnce(&Arc<Shared>, &mut Work<'_>) -> Result<(), Error> + Send + 'static {
    |_, _| Err(Error::NoLlama)
}

impl Setup {
    /// Reads the definition of the generation that is in force.
    pub(super) fn read(root: &Path, model: &ModelName) -> Result<Self, Error> {
        let layout = Layout::new(root);
        let current = layout.current();
        let folder = current
            .canonicalize()
            .map_err(|source| Error::FindGeneration { path: current.clone(), source })?;
        let number = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let generation = number.ok_or_else(|| Error::NameGeneration { path: folder.clone() })?;
        let path = Layout::definition(&folder);
        let bytes =
            std::fs::read(&path).map_err(|source| Error::ReadDefinition { path: path.clone(), source })?;
        let definition: Definition = serde_json::from_slice(&bytes)
            .map_err(|source| Error::ParseDefinition { path: path.clone(), source })?;
        if definition.format != generation::FORMAT {
            return Err(Error::Format { path, found: definition.format });
        }
        let known = definition.engines.iter().map(|spec| spec.model.as_str()).collect::<Vec<_>>().join(", ");
        let Some(spec) = definition.engines.into_iter().find(|spec| &spec.model == model) else {
            return Err(Error::UnknownModel { path, model: model.clone(), known });
        };
        for (name, value) in [
            ("context", spec.context),
            ("slots", spec.slots),
            ("threads", spec.threads),
            ("micro_batch", spec.micro_batch),
        ] {
            if value == 0 {
                return Err(Error::Spec { model: model.clone(), reason: format!("{name} is 0") });
            }
        }
        let weights = Layout::weights(&folder, model);
        Ok(Self {
            layout,
            generation,
            weights,
            spec,
            program: definition.program.digest,
            known: Known::default(),
        })
    }

    /// Returns the place of the socket, in a folder that is there, where no engine listens.
    pub(super) fn free_socket(&self) -> Result<PathBuf, Error> {
        let path = self.layout.engine_socket(&self.spec.model);
        if let Err(source) = std::fs::create_dir_all(self.layout.run_dir()) {
            return Err(Error::Socket { what: "make the folder of", path, source });
        }
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(Error::Running { path });
        }
        Ok(path)
    }
}

/// Serves what `load` brings until `stop`. `load` runs on a thread of its own: it loads the
/// model, and calls what it is given with it, once.
pub(super) async fn host(
    setup: &Setup,
    notify: Notify,
    load: impl FnOnce(&Arc<Shared>, &mut Work<'_>) -> Result<(), Error> + Send + 'static,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let socket = Socket::bind(setup)?;
    let model = &setup.spec.model;
    let shared = Arc::new(Shared::default());
    let (orders, inbox) = mpsc::channel();
    let started = crate::clock::unix_seconds();
    let door =
        Arc::new(Door::new(setup.spec.clone(), setup.generation, Arc::clone(&shared), orders, started));

    let (ready_sender, ready) = oneshot::channel();
    let (ended_sender, mut ended) = oneshot::channel();
    let (for_worker, shelf) = (Arc::clone(&shared), Shelf::of(setup));
    let work = move || {
        let mut ready_sender = Some(ready_sender);
        let outcome = load(&for_worker, &mut |engine, loaded| {
            let mut cached = vec![Vec::new(); loaded.slots];
            if let (Some(shelf), Some(caches)) = (&shelf, engine.caches()) {
                cached = shelf.take(caches, loaded.slots, loaded.context);
            }
            for_worker.set_loaded(loaded.clone());
            if let Some(sender) = ready_sender.take() {
                // whoever waits may have given up
                let _ = sender.send(loaded.cpu.clone());
            }
            worker::run(engine, &loaded, &inbox, &for_worker, &mut cached)?;
            if let (Some(shelf), Some(caches)) = (&shelf, engine.caches()) {
                shelf.keep(caches, &cached, &|| for_worker.is_stopping());
            }
            Ok(())
        });
        let _ = ended_sender.send(outcome);
    };
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(work)
        .map_err(|source| Error::Start { what: "the worker", source })?;

    notify.status(&format!("loading {model}"));
    let closing = CancellationToken::new();
    let mut server = tokio::spawn(arrivals::serve(socket.listener, door.router(), closing.clone()));

    let outcome = {
        let mut ready = ready;
        let mut is_told = false;
        let mut deadline: Option<Instant> = None;
        let mut watchdog = notify.watchdog().map(tokio::time::interval);
        let (machine, mut look) = (Host::default(), tokio::time::interval(care::LOOK));
        let mut seen = shared.beats();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                cpu = &mut ready, if !is_told => {
                    is_told = true;
                    if let Ok(cpu) = cpu {
                        tracing::info!(%model, quant = setup.spec.weights.quant_name(), cpu, "ready");
                        notify.ready(&format!("serving {model} on {cpu}"));
                    }
                }
                outcome = &mut ended => break outcome.unwrap_or(Err(Error::WorkerDied)),
                () = &mut stop, if deadline.is_none() => {
                    tracing::info!(running = shared.running(), "stopping");
                    notify.stopping();
                    if shared.loaded().is_none() {
                        shared.stop();
                    }
                    door.close();
                    deadline = Some(Instant::now() + DRAIN);
                }
                () = tick(watchdog.as_mut()) => {
                    let beats = shared.beats();
                    if beats != std::mem::replace(&mut seen, beats) {
                        notify.alive();
                    }
                }
                _ = look.tick() => {
                    let state = machine.look();
                    if let Some(news) = state.news(&shared.host()) {
                        tracing::warn!(%model, "{news}");
                    }
                    shared.set_host(state);
                }
                () = passed(deadline) => {
                    if shared.is_stopping() {
                        tracing::warn!("the worker does not end; leaving without it");
                        break Ok(());
                    }
                    tracing::warn!(running = shared.running(), "giving up what still runs");
                    shared.stop();
                    deadline = Some(Instant::now() + FLUSH);
                }
            }
        }
    };
    if outcome.is_err() {
        shared.fail();
    }
    door.close();
    socket.place.remove();
    closing.cancel();
    if tokio::time::timeout(FLUSH, &mut server).await.is_err() {
        server.abort();
    }
    outcome
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The socket that we listen on.
struct Socket {
    listener: UnixListener,
    place: Place,
}

/// Where our socket is, by name and by identity.
struct Place {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Takes the socket's place over from an engine that died, never from one that lives.
    fn bind(setup: &Setup) -> Result<Self, Error> {
        let path = setup.free_socket()?;
        let failed = |what| {
            let path = path.clone();
            move |source| Error::Socket { what, path, source }
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("take over")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("listen on"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))
            .map_err(failed("set the mode of"))?;
        let identity = identity(&path);
        Ok(Self { listener, place: Place { path, identity } })
    }
}

impl Place {
    /// Removes the socket, unless another one is in its place by now.
    fn remove(&self) {
        if self.identity.is_some()
            && identity(&self.path) == self.identity
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{install, spec};
    use super::*;

    #[test]
    fn a_definition_that_cannot_be_served_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| Setup::read(folder.path(), &name.parse().unwrap()).unwrap_err();
        assert!(matches!(read("parrot"), Error::FindGeneration { .. }));
        install(folder.path(), vec![EngineSpec { micro_batch: 0, ..spec(1) }]);
        assert!(read("crow").to_string().contains("has no model 'crow'; it has: parrot"));
        assert!(read("parrot").to_string().contains("micro_batch is 0"));
        let definition = Layout::definition(&Layout::new(folder.path()).current());
        let text = std::fs::read_to_string(&definition).unwrap().replace("\"format\":1", "\"format\":9");
        std::fs::write(&definition, text).unwrap();
        assert!(matches!(read("parrot"), Error::Format { found: 9, .. }));
    }
}
