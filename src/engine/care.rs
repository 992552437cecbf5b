//! How the host is: whether there is memory for a model before it is loaded, and whether memory, voltage and heat hold
//! while it is served.

use std::time::Duration;

use super::Error;
use crate::facts::Throttled;
use crate::generation::EngineSpec;
use crate::units::Bytes;
pub(super) use crate::vitals::{Host, State};

/// How often the host is looked at.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// With less memory than this the kernel drops pages of the weights that the next token reads again: an answer from
/// elsewhere is sooner there. Nothing is planned so tightly.
const SCARCE: Bytes = Bytes::mib(48);

impl State {
    /// Refuses to load what has no room.
    pub(super) fn check_room(&self, spec: &EngineSpec) -> Result<(), Error> {
        let Some(memory) = self.memory else { return Ok(()) };
        let swap = self.swap.unwrap_or_default();
        if spec.need <= memory + swap {
            return Ok(());
        }
        Err(Error::NoRoom { model: spec.model.clone(), need: spec.need, memory, swap })
    }

    /// Returns the memory that is left, where that is too little to serve well.
    pub(super) fn scarce(&self) -> Option<Bytes> {
        self.memory.filter(|memory| *memory < SCARCE)
    }

    /// Says what has become worse or better since `before`, for the log.
    pub(super) fn news(&self, before: &Self) -> Option<String> {
        if let (Some(memory), None) = (self.scarce(), before.scarce()) {
            return Some(format!("memory is scarce: {memory} are left; requests go elsewhere"));
        }
        if before.scarce().is_some() && self.scarce().is_none() {
            return Some("there is memory again".to_owned());
        }
        let (now, then) = (self.throttled?, before.throttled.unwrap_or(Throttled(0)));
        if now == then || !(now.is_under_voltage() || now.is_slowed()) {
            return None;
        }
        let supply = if now.is_under_voltage() { "the supply gives or gave too little voltage" } else { "" };
        let heat = if now.is_slowed() { "the processor is or was slowed for heat or supply" } else { "" };
        let words: Vec<&str> = [supply, heat].into_iter().filter(|word| !word.is_empty()).collect();
        Some(format!("{} (0x{:x})", words.join(", "), now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::spec;

    #[test]
    fn what_has_no_room_is_refused_with_the_numbers() {
        let spec = EngineSpec { need: Bytes::mib(900), ..spec(1) };
        let with = |memory, swap| State {
            memory: Some(Bytes::mib(memory)),
            swap: Some(Bytes::mib(swap)),
            ..State::default()
        };
        assert!(with(900, 0).check_room(&spec).is_ok() && with(500, 400).check_room(&spec).is_ok());
        let words = with(500, 399).check_room(&spec).unwrap_err().to_string();
        assert!(
            words.contains("900 MiB") && words.contains("500 MiB") && words.contains("399 MiB"),
            "{words}"
        );
        assert!(State::default().check_room(&spec).is_ok(), "nothing is known");
    }

    #[test]
    fn what_changes_is_said_once() {
        let with = |mib, bits| State {
            memory: Some(Bytes::mib(mib)),
            throttled: Some(Throttled(bits)),
            ..State::default()
        };
        let (good, short, hot) = (with(900, 0), with(40, 0), with(900, 0x4_0000));
        assert!(short.news(&good).unwrap().contains("40.0 MiB"));
        assert_eq!(short.news(&short), None);
        assert_eq!(good.news(&short).as_deref(), Some("there is memory again"));
        assert!(hot.news(&good).unwrap().contains("slowed"));
        assert_eq!((hot.news(&hot), good.news(&good)), (None, None));
    }
}
