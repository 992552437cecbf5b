use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use serde_json::json;

use super::arguments::{Global, Man};
use super::exit::Exit;
use super::{examples, output};
use crate::view::count;

/// Writes a manual page for each command, over those that are there.
pub(crate) fn run(verb: &Man, global: &Global) -> anyhow::Result<Exit> {
    fs::create_dir_all(&verb.dir)
        .with_context(|| format!("cannot make the folder {}", verb.dir.display()))?;
    let mut written = Vec::new();
    for (name, page) in pages()? {
        let path = verb.dir.join(name);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    if global.json {
        output::json(&json!({ "pages": written }))?;
    } else {
        output::result(&said(&written, &verb.dir))?;
    }
    Ok(Exit::Done)
}

fn said(written: &[PathBuf], dir: &Path) -> String {
    format!(
        "{} in {}: try `man -l {}`\n",
        count(written.len(), "page"),
        dir.display(),
        dir.join("bramble.1").display()
    )
}

/// Returns every page with the name of its file.
fn pages() -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut root = examples::command(None).disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    let mut left = vec![root];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|command| command.get_name() != "help").cloned());
        pages.push(page(command)?);
    }
    pages.sort();
    Ok(pages)
}

fn page(command: Command) -> anyhow::Result<(String, Vec<u8>)> {
    let man = clap_mangen::Man::new(command);
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok((man.get_filename(), page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["bramble.1", "bramble-plan.1", "bramble-keys-ca-export.1"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        for (name, page) in &pages {
            let text = String::from_utf8(page.clone()).unwrap();
            assert!(text.contains(".TH ") && text.contains("Examples:"), "{name}:\n{text}");
        }
    }
}
