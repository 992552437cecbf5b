//! The cards that were made here, kept so that `init` knows their hosts when they answer.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::environment::Environment;
use super::files;
use crate::discover::Card;

/// The longest file that is read; a card takes some dozens of bytes.
const LONGEST: u64 = 64 << 10;
/// The most cards that are kept: the last ones.
const MOST: usize = 256;

fn path(environment: &Environment) -> PathBuf {
    environment.state.join("cards.json")
}

/// Returns the cards that were made here; none where that cannot be read: it only helps.
pub(crate) fn read(environment: &Environment) -> Vec<Card> {
    let bytes = files::read(&path(environment), LONGEST).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Keeps a card, in place of an earlier one of that name.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn keep(environment: &Environment, card: Card) -> io::Result<()> {
    let mut cards = read(environment);
    cards.retain(|other| other.name != card.name);
    cards.push(card);
    let cards = &cards[cards.len().saturating_sub(MOST)..];
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&environment.state)?;
    let new = path(environment).with_extension("json.new");
    fs::write(&new, serde_json::to_vec(cards)?)?;
    fs::rename(&new, path(environment))
}
