//! What Ctrl-C does: where things stand is said before the command ends.
//!
//! Nobody listens before the work begins: until then Ctrl-C ends the command as it ends any other, also at a question.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::output;

/// Where things stand between hosts, one after another.
pub(crate) const BETWEEN_HOSTS: &str =
    "what was done on hosts stays, `bramble status` shows it, and the same command does the rest";

/// Does work that may be let go of at any moment, or says where things `stand` when Ctrl-C comes first: then none.
pub(crate) async fn or_stop<T>(work: impl Future<Output = T>, stand: &str) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = once() => {
            output::say(&format!("Interrupted: {stand}."));
            None
        }
    }
}

/// Does work that is told by `cancel` to come to an end by the first Ctrl-C, and let go of by the second: then none.
pub(crate) async fn or_end<T>(work: impl Future<Output = T>, cancel: &CancellationToken) -> Option<T> {
    let twice = async {
        once().await;
        output::say(
            "Interrupted: the step in hand is finished or undone first. Once more ends this at once, and a host in the \
             middle goes back by itself.",
        );
        cancel.cancel();
        once().await;
    };
    tokio::select! {
        done = work => Some(done),
        () = twice => None,
    }
}

async fn once() {
    if tokio::signal::ctrl_c().await.is_err() {
        // nobody can be heard: then nobody interrupts
        std::future::pending::<()>().await;
    }
}
