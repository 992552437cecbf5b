use std::time::Duration;

use tokio::sync::mpsc;

use super::hosts::Subject;
use super::verbs::VerbError;
use crate::connect::{Script, Talk, quote};
use crate::generation::Layout;
use crate::ids::ModelName;
use crate::install::LogLine;
use crate::lines::Lines;

/// The journal of a busy host is read in seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// Whoever follows a log ends it.
const FOLLOWED: Duration = Duration::from_hours(24 * 365);

/// No line of a log is longer, as JSON.
const LONGEST: usize = 256 << 10;

/// The most that is taken of one host's lines, in bytes of memory: a hundred thousand of the usual length of each of
/// three services.
const MOST: usize = 64 << 20;

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

/// Reads what the services of a host say, and gives `tell` each line; those that are there sorted by time. A host that
/// sends more than was asked for is not heard any longer.
/// With `request.follow` it ends when it is dropped, or the host goes away, and takes lines as fast as `tell` does.
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
        let mut room = (!request.follow).then(|| Room::for_what(subject, request));
        while let Some(bytes) = heard.recv().await {
            for line in lines.push(&bytes) {
                // what is no line of a log is somebody else's word on that channel
                let Ok(line) = serde_json::from_slice::<LogLine>(&line) else { continue };
                if let Some(room) = &mut room {
                    let taken = room.take(&line);
                    taken.map_err(|said| VerbError::Failed { verb, status: 0, said: said.to_owned() })?;
                }
                tell(line);
            }
        }
        Ok::<(), VerbError>(())
    };
    let talk = async { Ok::<_, VerbError>(subject.connection.talk(&script, Talk { input, output }).await) };
    let (ended, ()) = tokio::try_join!(talk, listen)?;
    let output = ended.map_err(connect)?;
    if output.status == 0 { Ok(()) } else { Err(VerbError::of(verb, &output)) }
}

/// What may still come of a host that nobody follows.
struct Room {
    lines: usize,
    bytes: usize,
}

impl Room {
    fn for_what(subject: &Subject, request: &LogsRequest) -> Self {
        let services = match request.models.len() {
            _ if request.door => 1,
            // every engine, and the door
            0 => subject.models().len() + 1,
            models => models,
        };
        let lines = usize::try_from(request.lines).unwrap_or(usize::MAX);
        Self { lines: lines.saturating_mul(services), bytes: MOST }
    }

    /// Sets room aside for a line, or says why there is none.
    fn take(&mut self, line: &LogLine) -> Result<(), &'static str> {
        let texts = line.service.len() + line.at.as_ref().map_or(0, String::len) + line.text.len();
        let Some(bytes) = self.bytes.checked_sub(size_of::<LogLine>() + texts) else {
            return Err(
                "it has more than 64 MiB of lines, and what came first is shown: ask for fewer with --lines",
            );
        };
        let Some(lines) = self.lines.checked_sub(1) else {
            return Err(
                "it sent more lines than were asked for, and what came first is shown: look at what runs there, or apply again",
            );
        };
        (self.bytes, self.lines) = (bytes, lines);
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connect::fake::Fake;
    use crate::facts::Installed;
    use crate::units::Bytes;

    fn line(text: &str) -> LogLine {
        LogLine { service: "route".to_owned(), at: None, text: text.to_owned() }
    }

    /// A host without engines that sends `count` lines, whatever it is asked for.
    fn sends(count: usize) -> Subject {
        let line = serde_json::to_string(&line("up")).unwrap();
        let connection = Arc::new(Fake::new("attic").says(" logs ", format!("{line}\n").repeat(count)));
        let installed = Installed {
            current: None,
            pending: None,
            generations: Vec::new(),
            blobs: [].into(),
            touched: [].into(),
            programs: [].into(),
            partials: [].into(),
            reserved: [].into(),
            services: [].into(),
            memory: Bytes(0),
            drift: Vec::new(),
            bench: None,
            measured: Vec::new(),
            cordon: None,
            secrets: None,
        };
        let (host, layout) = ("attic".parse().unwrap(), Layout::new("/srv/bramble"));
        Subject { host, layout, is_root: true, installed, connection: connection.clone(), fresh: connection }
    }

    /// How many lines were told, and how that ended.
    async fn told(subject: &Subject, follow: bool) -> (usize, Result<(), VerbError>) {
        let request = LogsRequest { lines: 3, follow, ..LogsRequest::default() };
        let mut told = 0;
        let ended = logs(subject, &request, |_| told += 1).await;
        (told, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_sends_more_lines_than_were_asked_for_is_not_heard_any_longer() {
        let (count, ended) = told(&sends(3), false).await;
        ended.unwrap();
        assert_eq!(count, 3);
        let (count, ended) = told(&sends(1000), false).await;
        let error = ended.unwrap_err().to_string();
        assert!(count == 3 && error.contains("more lines than were asked for"), "{count}: {error}");
        let (count, ended) = told(&sends(1000), true).await;
        ended.unwrap();
        assert_eq!(count, 1000, "somebody follows");
    }

    #[test]
    fn lines_that_are_empty_take_room_too_and_long_ones_their_length() {
        let filled = |text: &str| {
            let mut room = Room { lines: usize::MAX, bytes: 1 << 20 };
            (0..=1 << 20).take_while(|_| room.take(&line(text)).is_ok()).count()
        };
        assert!((5_000..15_000).contains(&filled("")), "{}", filled(""));
        assert_eq!(filled(&"x".repeat(100 << 10)), 10);
        let why = Room { lines: 9, bytes: 9 }.take(&line("")).unwrap_err();
        assert!(why.contains("fewer with --lines"), "{why}");
    }
}
