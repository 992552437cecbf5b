//! What happened, as values, for any face to show.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::ids::HostName;
use crate::units::Bytes;

/// One thing that happened while something was being done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A piece of work began. `key` ties its later events together.
    Started {
        /// Names the work: unique among what runs at the same time.
        key: String,
        /// The host it is done on; none on the operator's machine.
        host: Option<HostName>,
        /// What is being done, in the present tense: `pushing chat (Q8_0)`.
        what: String,
        /// How many bytes it will move, where that is known.
        total: Option<Bytes>,
    },
    /// Some of it is done.
    Progress {
        /// The work.
        key: String,
        /// Bytes done, from the start of the work, what was resumed included.
        done: Bytes,
        /// How much of it came from other hosts by now.
        from_hosts: Bytes,
    },
    /// It ended well.
    Finished {
        /// The work.
        key: String,
        /// What came out, where that is worth a word: "already there".
        outcome: Option<String>,
    },
    /// It failed.
    Failed {
        /// The work.
        key: String,
        /// The error with its causes.
        error: String,
    },
    /// Something to know.
    Note {
        /// The host it concerns.
        host: Option<HostName>,
        /// The sentence.
        text: String,
    },
}

/// Where events go. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `sink`, which must not block.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Sends `event`.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
