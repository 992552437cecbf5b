use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::folded;
use crate::events::Event;
use crate::ids::HostName;
use crate::terminal;

/// Columns that a bar takes with everything beside it, of texts as long as most.
const WHOLE: usize = 106;

/// Shows events on standard error: bars on a terminal, a line per beginning and end elsewhere.
pub struct Progress {
    bars: MultiProgress,
    running: Mutex<BTreeMap<String, Running>>,
    is_terminal: bool,
    width: Option<usize>,
}

struct Running {
    bar: ProgressBar,
    label: String,
}

impl Progress {
    /// Draws bars if `is_terminal`, else writes plain lines; both keep to the `width` where there is one.
    pub fn new(is_terminal: bool, width: Option<usize>) -> Self {
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), running: Mutex::default(), is_terminal, width }
    }

    /// Shows one event. Safe to call from any thread.
    pub fn show(&self, event: Event) {
        match event {
            Event::Started { key, host, what, total } => {
                let label = label(host.as_ref(), &what);
                let is_narrow = self.width.is_some_and(|width| width < WHOLE);
                let bar = match (total, is_narrow) {
                    (Some(total), false) => ProgressBar::new(total.0).with_style(style(
                        "  {msg:36} [{bar:24}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>11} {eta:>4}",
                    )),
                    (Some(total), true) => ProgressBar::new(total.0)
                        .with_style(style("  {wide_msg} {percent:>3} % {bytes_per_sec:>11} {eta:>4}")),
                    (None, false) => {
                        ProgressBar::new_spinner().with_style(style("  {msg:36} {spinner} {elapsed}"))
                    }
                    (None, true) => {
                        ProgressBar::new_spinner().with_style(style("  {wide_msg} {spinner} {elapsed}"))
                    }
                };
                let bar = self.bars.add(bar.with_message(label.clone()));
                if total.is_none() {
                    bar.enable_steady_tick(std::time::Duration::from_millis(120));
                }
                if !self.is_terminal {
                    self.line(&format!("  {label} ..."));
                }
                self.lock().insert(key, Running { bar, label });
            }
            Event::Progress { key, done } => {
                if let Some(running) = self.lock().get(&key) {
                    running.bar.set_position(done.0);
                }
            }
            Event::Finished { key, outcome } => {
                if let Some(running) = self.lock().remove(&key) {
                    running.bar.finish_and_clear();
                    let outcome = outcome.map(|outcome| format!(": {outcome}")).unwrap_or_default();
                    let seconds = running.bar.elapsed().as_secs_f64();
                    self.line(&format!("  {}{outcome} ({seconds:.1} s)", running.label));
                }
            }
            // why is told once, at the end, by whoever goes on or gives up
            Event::Failed { key, .. } => {
                if let Some(running) = self.lock().remove(&key) {
                    running.bar.finish_and_clear();
                    let seconds = running.bar.elapsed().as_secs_f64();
                    self.line(&format!("  {}: FAILED ({seconds:.1} s)", running.label));
                }
            }
            Event::Note { host, text } => self.line(&format!("  {}", label(host.as_ref(), &text))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        // a panic while drawing leaves nothing half done that matters
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        // what is being done goes on where nobody reads how it goes
        let text = folded(&terminal::text(text), self.width);
        let _ = self.bars.suspend(|| writeln!(std::io::stderr(), "{text}"));
    }
}

fn label(host: Option<&HostName>, what: &str) -> String {
    let what = terminal::line(what);
    host.map_or_else(|| what.clone(), |host| format!("{host}: {what}"))
}

fn style(template: &str) -> ProgressStyle {
    // the templates above are constants; a fault in one shows as indicatif's own bar
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
