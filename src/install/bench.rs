use super::stand::Stand;
use super::{Error, files};
use crate::facts::Bench;
use crate::generation::{Definition, Layout};

/// Keeps what the host was measured at, where `inspect` finds it.
pub fn keep_bench(layout: &Layout, bench: &Bench) -> Result<(), Error> {
    files::write(&layout.bench(), &files::json("what was measured", bench)?, 0o644)
}

/// Returns what the host was measured at. What cannot be read is as good as not there: nothing
/// but estimates rests on it, and it is soon measured again.
pub(super) fn kept_bench(layout: &Layout) -> Option<Bench> {
    files::read_json(&layout.bench()).ok().flatten().filter(|bench: &Bench| bench.format == Bench::FORMAT)
}

/// Returns what the generation in force runs; none where none is.
pub fn current_definition(layout: &Layout) -> Result<Option<Definition>, Error> {
    Ok(Stand::current(layout)?.map(|stand| stand.definition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_what_is_broken_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(kept_bench(&layout), None);
        let bench = Bench {
            format: Bench::FORMAT,
            memory: None,
            storage: None,
            engines: Vec::new(),
            notes: vec!["no engine runs here".to_owned()],
        };
        keep_bench(&layout, &bench).unwrap();
        assert_eq!(kept_bench(&layout), Some(bench.clone()));
        keep_bench(&layout, &Bench { format: 99, ..bench }).unwrap();
        assert_eq!(kept_bench(&layout), None);
        std::fs::write(layout.bench(), "{").unwrap();
        assert_eq!(kept_bench(&layout), None);
    }
}
