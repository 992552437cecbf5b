use std::io::{BufRead as _, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::confine;
use super::message::Message;
use super::{Control, Error, Made, Order, run};
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
/// Wants to be called while the process has one thread: what it gives up, each thread gives up for itself. Returns whether all files were made. What went wrong has been told by then.
pub fn serve() -> bool {
    let say = |message: &Message| -> bool {
        // enums of texts and numbers always become JSON
        let line = serde_json::to_string(message).unwrap_or_default();
        writeln!(std::io::stdout().lock(), "{line}").is_ok()
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
    match patiently(&order, &control, &input) {
        Ok(made) => say(&Message::Made(made)),
        Err(error) => {
            say(&Message::Failed {
                error: with_causes(&error),
                is_refusal: error.is_refusal(),
                is_transient: error.is_transient(),
            });
            false
        }
    }
}

/// Runs the order; `input` has an end once the work is to stop.
fn patiently(order: &Order, control: &Control<'_>, input: &mpsc::Receiver<()>) -> Result<Vec<Made>, Error> {
    for _ in 0..TRIES {
        match run(order, control) {
            Err(Error::Busy { .. }) if input.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) => {}
            ended => return ended,
        }
    }
    run(order, control)
}
