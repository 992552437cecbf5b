use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::logs::Reading;
use super::{Arming, Changes, Error, LogLine};
use crate::facts::ServiceState;
use crate::unit::Unit;

/// What runs the services of a host: systemd, or a process of ours.
#[async_trait]
pub trait Supervisor: Send + Sync {
    /// Returns the system user that services run as; none when they run as we do.
    fn user(&self) -> Option<&'static str>;

    /// Makes sure that services start at boot and outlive the login. Returns whether that
    /// was switched on now.
    async fn linger(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Switches that off again.
    async fn end_lingering(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Checks the units of a generation before they are used. `at` is where the
    /// generation lies until `current` leads to it.
    async fn verify(&self, units: &[Unit], at: &std::path::Path) -> Result<(), Error>;

    /// Makes the services of the generation that `current` leads to those that run now
    /// and after a boot. Does not wait until they are ready.
    async fn switch(&self, units: &[Unit], changes: &Changes) -> Result<(), Error>;

    /// Stops `services` and starts them anew. Does not wait until they are ready.
    async fn restart(&self, services: &[String]) -> Result<(), Error>;

    /// Returns the state of each of `services`.
    async fn services(&self, services: &[String]) -> Result<BTreeMap<String, Service>, Error>;

    /// Returns the last lines that a service said, a few KiB, or nothing.
    async fn log(&self, service: &str) -> String;

    /// Passes on the last lines that a service said, and those that come; an error from there ends it.
    async fn read_log(
        &self,
        service: &str,
        reading: Reading,
        say: mpsc::Sender<LogLine>,
    ) -> Result<(), Error>;

    /// Says how what is set up differs from `units`, one sentence each.
    async fn drift(&self, units: &[Unit]) -> Vec<String>;

    /// Makes sure that an activation is taken back when it is not confirmed in time, or
    /// when the host boots before.
    async fn arm(&self, arming: &Arming) -> Result<(), Error>;

    /// Takes the timer away. The guard at boot stays, and does nothing while nothing is pending.
    async fn disarm(&self) -> Result<(), Error>;

    /// Stops everything and takes away everything that was set up.
    async fn clear(&self) -> Result<(), Error>;
}

/// How one service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Its state.
    pub state: ServiceState,
    /// Its main process.
    pub pid: Option<u32>,
    /// How often it was started again after it ended by itself.
    pub restarts: u32,
}

impl Service {
    /// A service that does not run.
    pub(super) const STOPPED: Self = Self { state: ServiceState::Stopped, pid: None, restarts: 0 };
}
