use std::io::{BufRead as _, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::confine;
use super::message::Message;
use super::output::Partial;
use super::pass::{fill, open};
use super::{Control, Error, Order};
use crate::causes::with_causes;

/// The longest order that is read: sixteen paths have 64 KiB.
const ORDER_LIMIT: u64 = 1 << 20;

/// Whether the work is to stop: the thread that reads lives as long as the process.
static STOP: AtomicBool = AtomicBool::new(false);

/// How often, and after which pause, a file is tried again that another pass is writing: one
/// whose asker was killed ends within that, when it has brought to the disk what it had in hand.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Works for [`super::child::run`]: an order, as a line of JSON, comes from standard input, and
/// lines of JSON go to standard output. The end of standard input stops the work.
///
/// Wants to be called while the process has one thread: what it gives up, each thread gives up for itself. Returns whether all
/// files were made; they get their names by who asked. What went wrong has been told by then.
pub fn serve() -> bool {
    let say = |message: &Message| -> bool {
        // enums of texts and numbers always become JSON
        let line = serde_json::to_string(message).unwrap_or_default();
        writeln!(std::io::stdout().lock(), "{line}").is_ok()
    };
    let failed = |error: &Error| -> bool {
        say(&Message::Failed {
            error: with_causes(error),
            is_refusal: error.is_refusal(),
            is_transient: error.is_transient(),
        });
        false
    };
    let mut line = String::new();
    let read = std::io::stdin().lock().take(ORDER_LIMIT).read_line(&mut line);
    let order: Order = match read.map_err(|error| error.to_string()).and_then(|_| {
        serde_json::from_str(&line).map_err(|error| format!("the order is not understood: {error}"))
    }) {
        Ok(order) => order,
        Err(error) => {
            say(&Message::Failed { error, is_refusal: false, is_transient: false });
            return false;
        }
    };
    // what is written to is opened while that is still allowed
    let files = match patiently(&order) {
        Ok(files) => files,
        Err(error) => return failed(&error),
    };
    match confine::confine(&order) {
        Ok(true) => {}
        Ok(false) => tracing::info!("this kernel has no Landlock: it could read other files of its user"),
        Err(error) => {
            let error = format!("cannot give up what making weights does not need: {error}");
            say(&Message::Failed { error, is_refusal: false, is_transient: false });
            return false;
        }
    }
    // it waits for the end of its input, and ends with the process
    let (ended, input) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        STOP.store(true, Ordering::Relaxed);
        drop(ended);
    });
    let told = |message: Message| {
        // nobody listens any more
        if !say(&message) {
            STOP.store(true, Ordering::Relaxed);
        }
    };
    let control = Control {
        stop: &STOP,
        begun: &|bytes| {
            confine::allow_time_for(bytes.0);
            told(Message::Begun(bytes));
        },
        progress: &|bytes| told(Message::Progress(bytes)),
    };
    match fill(&order, &files, &control) {
        Ok(()) if say(&Message::Made) => {
            // nobody else writes to them before they have their names, or are not wanted
            let _ = input.recv();
            drop(files);
            true
        }
        Ok(()) => false,
        Err(error) => failed(&error),
    }
}

/// Opens the files of the order, and waits a while where another pass writes to one of them, unless the input ends.
fn patiently(order: &Order) -> Result<Vec<Partial>, Error> {
    for _ in 0..TRIES {
        match open(order) {
            Err(Error::Busy { .. }) if !has_ended(PAUSE) => {}
            opened => return opened,
        }
    }
    open(order)
}

/// Waits so long for the end of the input, and tells whether it has come. A thread that did would not be confined.
fn has_ended(pause: Duration) -> bool {
    let stdin = std::io::stdin();
    let mut input = [PollFd::new(&stdin, PollFlags::IN)];
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
    poll(&mut input, Some(&pause)).is_ok_and(|ready| ready > 0)
}
