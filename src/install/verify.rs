use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::Error;
use super::stand::Stand;
use crate::generation::Layout;
use crate::ids::{Digest, ModelName};
use crate::store;
use crate::units::Bytes;

/// What hashing the weights in force has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The models whose weights were hashed, with their bytes.
    pub models: BTreeMap<ModelName, Bytes>,
    /// Those whose weights are others by now, or are gone, with the digest that they have.
    pub damaged: BTreeMap<ModelName, Option<Digest>>,
}

/// Hashes the weights of the generation in force, all of them, which takes a card minutes. Damaged ones are marked
/// ([`super::inspect`] says so from then on); nothing else is changed, and no lock is taken.
///
/// # Errors
/// The generation in force cannot be read, or a blob cannot, or may not be marked.
pub fn verify(layout: &Layout) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    let mut known: BTreeMap<Digest, Option<Digest>> = BTreeMap::new();
    for spec in Stand::current(layout)?.into_iter().flat_map(|stand| stand.definition.engines) {
        let Some(digest) = spec.weights.digest else { continue };
        let blob = layout.blob(&digest);
        let found = match known.entry(digest) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) if !blob.exists() => *new.insert(None),
            Entry::Vacant(new) => {
                *new.insert(Some(store::prove(&blob, &digest).map_err(Error::io("read", &blob))?))
            }
        };
        if found != Some(digest) {
            verified.damaged.insert(spec.model.clone(), found);
        }
        verified.models.insert(spec.model, spec.weights.bytes);
    }
    Ok(verified)
}
