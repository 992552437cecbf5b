use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::folded;
use crate::events::Event;
use crate::ids::HostName;
use crate::terminal;
use crate::units::Bytes;

/// Columns that a bar takes with everything beside it, of texts as long as most.
const WHOLE: usize = 118;

/// How often it is told in JSON how far a piece of work is.
const TOLD: Duration = Duration::from_millis(500);

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// Bars, for who looks at a terminal.
    Bars,
    /// A line for each beginning and end.
    Lines,
    /// A line of JSON for each event, those of progress now and then.
    Json,
}

/// Shows events on standard error.
pub struct Progress {
    bars: MultiProgress,
    board: Mutex<Board>,
    showing: Showing,
    width: Option<usize>,
}

/// What goes on.
#[derive(Default)]
struct Board {
    running: BTreeMap<String, Running>,
    together: Together,
}

struct Running {
    bar: ProgressBar,
    label: String,
    /// When it was told last how far it is.
    told: Option<Instant>,
}

/// What all pieces of work that move bytes side by side have done, from the first of them to the last.
#[derive(Default)]
struct Together {
    /// By key: what is done, and all of it.
    works: BTreeMap<String, (u64, u64)>,
    running: usize,
    /// There once there are two.
    bar: Option<ProgressBar>,
}

impl Together {
    fn begin(&mut self, key: &str, total: u64, new_bar: impl FnOnce() -> ProgressBar) {
        self.works.insert(key.to_owned(), (0, total));
        self.running += 1;
        if self.works.len() > 1 && self.bar.is_none() {
            self.bar = Some(new_bar());
        }
        self.draw();
    }

    fn go_on(&mut self, key: &str, done: u64) {
        if let Some((so_far, total)) = self.works.get_mut(key) {
            *so_far = done.min(*total);
            self.draw();
        }
    }

    /// One has come to its end; what has failed counts no longer.
    fn end(&mut self, key: &str, is_well: bool) {
        match self.works.get_mut(key) {
            Some((done, total)) if is_well => *done = *total,
            Some(_) => drop(self.works.remove(key)),
            None => return,
        }
        self.running -= 1;
        self.draw();
        if self.running == 0 {
            self.works.clear();
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
        }
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_length(self.works.values().map(|(_, total)| total).sum());
            bar.set_position(self.works.values().map(|(done, _)| done).sum());
        }
    }
}

impl Progress {
    /// Bars and lines keep to the `width` where there is one.
    pub fn new(showing: Showing, width: Option<usize>) -> Self {
        let is_drawn = showing == Showing::Bars;
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), board: Mutex::default(), showing, width }
    }

    fn bar(&self, total: Option<u64>) -> ProgressBar {
        let is_narrow = self.width.is_some_and(|width| width < WHOLE);
        match (total, is_narrow) {
            (Some(total), false) => ProgressBar::new(total).with_style(style(
                "  {msg:36} [{bar:24}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>11} {eta:>4} {prefix}",
            )),
            (Some(total), true) => ProgressBar::new(total)
                .with_style(style("  {wide_msg} {percent:>3} % {bytes_per_sec:>11} {eta:>4}")),
            (None, false) => ProgressBar::new_spinner().with_style(style("  {msg:36} {spinner} {elapsed}")),
            (None, true) => ProgressBar::new_spinner().with_style(style("  {wide_msg} {spinner} {elapsed}")),
        }
    }

    /// Shows one event. Safe to call from any thread.
    pub fn show(&self, event: Event) {
        if self.showing == Showing::Json {
            self.show_json(&event);
        }
        match event {
            Event::Started { key, host, what, total } => {
                let label = label(host.as_ref(), &what);
                let bar = self.bar(total.map(|total| total.0)).with_message(label.clone());
                let mut board = self.lock();
                let bar = match &board.together.bar {
                    Some(all) => self.bars.insert_before(all, bar),
                    None => self.bars.add(bar),
                };
                match total {
                    Some(total) => board.together.begin(&key, total.0, || {
                        let all = self.bar(Some(0)).with_message("in all");
                        self.bars.add(all)
                    }),
                    None => bar.enable_steady_tick(Duration::from_millis(120)),
                }
                board.running.insert(key, Running { bar, label: label.clone(), told: None });
                drop(board);
                if self.showing == Showing::Lines {
                    self.line(&format!("  {label} ..."));
                }
            }
            Event::Progress { key, done, from_hosts } => {
                let mut board = self.lock();
                if let Some(running) = board.running.get(&key) {
                    running.bar.set_position(done.0);
                    if from_hosts > Bytes::ZERO {
                        running.bar.set_prefix(format!("{from_hosts} from hosts"));
                    }
                }
                board.together.go_on(&key, done.0);
            }
            Event::Finished { key, outcome } => {
                if let Some(running) = self.end(&key, true) {
                    running.bar.finish_and_clear();
                    let outcome = outcome.map(|outcome| format!(": {outcome}")).unwrap_or_default();
                    let seconds = running.bar.elapsed().as_secs_f64();
                    self.line(&format!("  {}{outcome} ({seconds:.1} s)", running.label));
                }
            }
            // why is told once, at the end, by whoever goes on or gives up
            Event::Failed { key, .. } => {
                if let Some(running) = self.end(&key, false) {
                    running.bar.finish_and_clear();
                    let seconds = running.bar.elapsed().as_secs_f64();
                    self.line(&format!("  {}: FAILED ({seconds:.1} s)", running.label));
                }
            }
            Event::Note { host, text } => self.line(&format!("  {}", label(host.as_ref(), &text))),
        }
    }

    fn end(&self, key: &str, is_well: bool) -> Option<Running> {
        let mut board = self.lock();
        board.together.end(key, is_well);
        board.running.remove(key)
    }

    /// Writes an event down for programs, unless it is of progress that was told a moment ago.
    fn show_json(&self, event: &Event) {
        if let Event::Progress { key, done, .. } = event {
            let now = Instant::now();
            let mut board = self.lock();
            let Some(running) = board.running.get_mut(key) else { return };
            let is_whole = running.bar.length() == Some(done.0);
            if !is_whole && running.told.is_some_and(|told| now.duration_since(told) < TOLD) {
                return;
            }
            running.told = Some(now);
        }
        // an event is plain data
        let text = serde_json::to_string(event).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "{}", terminal::json(&text));
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // a panic while drawing leaves nothing half done that matters
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        if self.showing == Showing::Json {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(progress: &Progress) -> Option<(u64, u64)> {
        let board = progress.lock();
        board.together.bar.as_ref().map(|bar| (bar.position(), bar.length().unwrap_or_default()))
    }

    #[test]
    fn what_moves_side_by_side_has_a_bar_in_all_until_the_last_of_it_ends() {
        let progress = Progress::new(Showing::Bars, None);
        progress.bars.set_draw_target(ProgressDrawTarget::hidden());
        let begin = |key: &str, total: Option<u64>| {
            let (key, what, total) = (key.to_owned(), "pushing".to_owned(), total.map(Bytes));
            progress.show(Event::Started { key, host: None, what, total });
        };
        let go_on = |key: &str, done: u64, from_hosts: u64| {
            let (key, done, from_hosts) = (key.to_owned(), Bytes(done), Bytes(from_hosts));
            progress.show(Event::Progress { key, done, from_hosts });
        };
        let end = |key: &str| progress.show(Event::Finished { key: key.to_owned(), outcome: None });
        begin("one", Some(100));
        begin("else", None);
        go_on("one", 40, 0);
        assert_eq!(of(&progress), None, "there is nothing beside it");
        begin("two", Some(200));
        assert_eq!(of(&progress), Some((40, 300)));
        go_on("two", 50, 30);
        assert_eq!(of(&progress), Some((90, 300)));
        let prefix = progress.lock().running["two"].bar.prefix();
        assert_eq!(prefix, "30 B from hosts");
        end("one");
        begin("three", Some(700));
        assert_eq!(of(&progress), Some((150, 1000)));
        progress.show(Event::Failed { key: "three".to_owned(), error: "gone".to_owned() });
        assert_eq!(of(&progress), Some((150, 300)), "what has failed counts no longer");
        end("else");
        end("two");
        assert_eq!(of(&progress), None);
        begin("next", Some(9));
        assert_eq!(of(&progress), None);
    }
}
