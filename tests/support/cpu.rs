//! What programs have cost that have ended.

use std::fs;
use std::time::Duration;

use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

/// Linux tells times in this many parts of a second, on every machine.
const TICKS: f64 = 100.0;

/// The two ends of a transfer on this machine: what this process starts, and an sshd with what it starts.
pub(crate) struct Ends {
    sshd: u32,
}

impl Ends {
    /// Programs that go to the background, as ssh's master does, count as this process's from now on.
    pub(crate) fn new(sshd: u32) -> Self {
        set_child_subreaper(Some(getpid())).unwrap();
        Self { sshd }
    }

    /// Returns the processor seconds, of both ends in this order, of what `run` starts; waits for its end.
    pub(crate) fn cost(&self, run: impl FnOnce()) -> [f64; 2] {
        self.wait();
        let before = self.spent();
        run();
        self.wait();
        let after = self.spent();
        [after[0] - before[0], after[1] - before[1]]
    }

    fn spent(&self) -> [f64; 2] {
        [getpid().as_raw_nonzero().get().unsigned_abs(), self.sshd].map(of_ended_children)
    }

    /// Waits until this process has no child but the sshd, and that has none.
    fn wait(&self) {
        loop {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            let ours = children(getpid().as_raw_nonzero().get().unsigned_abs());
            if ours == [self.sshd] && children(self.sshd).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>())
        .collect()
}

/// Returns the user and system time of all children that have ended and been waited for, and of theirs.
fn of_ended_children(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // behind the name, which may have anything in it: the state is the third field
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    [16, 17].iter().map(|field| fields[field - 3].parse::<f64>().unwrap()).sum::<f64>() / TICKS
}
