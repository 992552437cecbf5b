//! Who may come in: bearer keys against the hashes of the generation; hosts by their certificates.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::authority::Member;
use crate::generation::{KeyEntry, Limits, Scope};
use crate::ids::Digest;

/// The keys that open this door.
#[derive(Debug)]
pub(super) struct Keys(Vec<(KeyEntry, String)>);

/// One who showed a good key.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// The key's name, for the log.
    pub(super) key_id: String,
    /// How much it may ask.
    pub(super) limits: Limits,
    scopes: Vec<Scope>,
}

impl Visitor {
    /// Lets a host of the fleet in, which its certificate has proven.
    pub(super) fn host(member: &Member) -> Self {
        let key_id = format!("host:{}", member.host);
        Self { key_id, limits: Limits::default(), scopes: vec![Scope::Peer] }
    }

    /// Returns whether the key has this scope.
    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

impl Keys {
    /// Takes the entries of the generation's secrets.
    pub(super) fn new(entries: &[KeyEntry]) -> Self {
        Self(entries.iter().map(|entry| (entry.clone(), entry.sha256.to_string())).collect())
    }

    /// Returns whose key the request shows; none when it shows none or a wrong one. Takes
    /// the same time whichever key it is and however much of it is right.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Option<Visitor> {
        self.shown(bearer(headers)?)
    }

    /// Returns whose key this is; none where it is nobody's.
    pub(super) fn shown(&self, key: &[u8]) -> Option<Visitor> {
        self.hashed(&Digest::of(key))
    }

    /// Returns whose key has this hash, which opens nothing where it is shown itself.
    pub(super) fn hashed(&self, hash: &Digest) -> Option<Visitor> {
        let shown = hash.to_string();
        let mut found = None;
        for (entry, hash) in &self.0 {
            if bool::from(hash.as_bytes().ct_eq(shown.as_bytes())) {
                let KeyEntry { id, scopes, limits, .. } = entry.clone();
                found = Some(Visitor { key_id: id, limits, scopes });
            }
        }
        found
    }
}

/// Returns the key that a request shows, whosever it is; none where it shows none, or not as it should.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty()).then_some(key)
}

/// Says why nobody was let in. It tells of what was sent alone, and nothing of the keys that there are.
pub(super) fn refusal(headers: &HeaderMap) -> &'static str {
    match bearer(headers) {
        Some(_) => {
            "this key is not known here: look whether all of it was sent, and whether `bramble keys list` has it and `bramble apply` brought it here"
        }
        None => "this needs a key: send it as Authorization: Bearer KEY",
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn admitted(values: &[&str]) -> Option<String> {
        let entry = |id: &str| KeyEntry {
            id: id.into(),
            sha256: Digest::of(id.as_bytes()),
            scopes: vec![Scope::Infer],
            limits: Limits::default(),
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        Keys::new(&[entry("one"), entry("two")]).admit(&headers).map(|visitor| visitor.key_id)
    }

    #[test]
    fn only_a_whole_key_behind_bearer_opens() {
        assert_eq!(admitted(&["Bearer two"]).as_deref(), Some("two"));
        assert_eq!(admitted(&["bearer one"]).as_deref(), Some("one"));
        let wrong: [&[&str]; 9] = [
            &[],
            &[""],
            &["Bearer "],
            &["Bearer"],
            &["Bearer on"],
            &["Bearer one "],
            &["Basic one"],
            &["one"],
            &["Bearer one", "Bearer two"],
        ];
        assert!(wrong.iter().all(|values| admitted(values).is_none()));
    }

    #[test]
    fn no_key_and_a_wrong_one_are_told_apart() {
        let said = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            refusal(&headers).split(':').next().unwrap()
        };
        assert_eq!(said("Bearer nobody's"), "this key is not known here");
        for none in ["Bearer ", "Basic one", "one"] {
            assert_eq!(said(none), "this needs a key", "{none}");
        }
    }

    #[test]
    fn the_hash_itself_opens_nothing() {
        assert_eq!(admitted(&[&format!("Bearer {}", Digest::of(b"one"))]), None);
    }
}
