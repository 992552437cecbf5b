use std::time::Duration;

use tokio::sync::mpsc;

use super::hosts::Subject;
use super::verbs::VerbError;
use crate::connect::{Script, Talk, quote};
use crate::generation::Layout;
use crate::ids::ModelName;
use crate::install::{Lines, LogLine};

/// The journal of a busy host is read in seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// Whoever follows a log ends it.
const FOLLOWED: Duration = Duration::from_hours(24 * 365);

/// No line of a log is longer, as JSON.
const LONGEST: usize = 256 << 10;

/// Pieces of a log on their way.
const WAITING: usize = 64;

/// What to show of hosts' logs.
#[derive(Debug, Clone, Default)]
pub struct LogsRequest {
    /// Only the engines of these models; none: every service.
    pub models: Vec<ModelName>,
    /// Only the door.
    pub door: bool,
    /// How many of the last lines of each service.
    pub lines: u32,
    /// Whether to go on with those that come.
    pub follow: bool,
}

/// Reads what the services of a host say, and gives `tell` each line; those that are there sorted by time.
/// With `request.follow` it ends when it is dropped, or the host goes away.
pub async fn logs(
    subject: &Subject,
    request: &LogsRequest,
    mut tell: impl FnMut(LogLine) + Send,
) -> Result<(), VerbError> {
    let verb = "logs";
    let connect = |source| VerbError::Connect { verb, source };
    let script = Script {
        text: command(subject, request),
        is_root: subject.is_root,
        timeout: if request.follow { FOLLOWED } else { PATIENCE },
    };
    let (open, input) = mpsc::channel(1);
    let (output, mut heard) = mpsc::channel::<Vec<u8>>(WAITING);
    let listen = async move {
        // its standard input stays open for as long as somebody listens
        let _open = open;
        let mut lines = Lines::new(LONGEST);
        while let Some(bytes) = heard.recv().await {
            // what is no line of a log is somebody else's word on that channel
            let whole = lines.push(&bytes).into_iter();
            whole.filter_map(|line| serde_json::from_slice(&line).ok()).for_each(&mut tell);
        }
    };
    let talk = subject.connection.talk(&script, Talk { input, output });
    let (ended, ()) = tokio::join!(talk, listen);
    let output = ended.map_err(connect)?;
    if output.status == 0 { Ok(()) } else { Err(VerbError::of(verb, &output)) }
}

fn command(subject: &Subject, request: &LogsRequest) -> String {
    let program = Layout::brambled(&subject.layout.current()).display().to_string();
    let root = subject.layout.root().display().to_string();
    let lines = request.lines.to_string();
    let mut words =
        vec![quote(&program), "logs".into(), "--root".into(), quote(&root), "--lines".into(), lines];
    words.extend(request.models.iter().map(|model| format!("--model {model}")));
    words.extend(request.door.then(|| "--door".to_owned()));
    words.extend(request.follow.then(|| "--follow".to_owned()));
    words.join(" ")
}
