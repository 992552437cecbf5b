//! Passwords that a person was asked for: in the memory of one run, and nowhere else.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

/// A password. Its memory is overwritten at the end, and it shows itself to nobody.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes what was typed, without the end of its line.
    pub fn new(typed: String) -> Self {
        Self(Zeroizing::new(typed))
    }

    /// Returns it as a line, for a program that reads one.
    pub(super) fn line(&self) -> Zeroizing<Vec<u8>> {
        let mut line = Zeroizing::new(Vec::with_capacity(self.0.len() + 1));
        line.extend_from_slice(self.0.as_bytes());
        line.push(b'\n');
        line
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The password that sudo asks a login for, once it is known. All connections to a host share it.
#[derive(Debug, Clone, Default)]
pub struct SudoPassword(Arc<Mutex<Option<Password>>>);

impl SudoPassword {
    /// Gives it to all who share it; none: it was wrong.
    pub fn set(&self, password: Option<Password>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = password;
    }

    /// Returns it, where it is known.
    pub fn get(&self) -> Option<Password> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shared_and_shows_itself_to_nobody() {
        let sudo = SudoPassword::default();
        let other = sudo.clone();
        sudo.set(Some(Password::new("hunter2".to_owned())));
        assert_eq!(other.get().expect("it is known").line().as_slice(), b"hunter2\n");
        assert!(!format!("{other:?}{:?}", sudo.get()).contains("hunter2"));
        other.set(None);
        assert!(sudo.get().is_none());
    }
}
