use serde_json::Value;

use super::Error;

/// `config.json`, asked by key.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a>(pub &'a Value);

impl<'a> Config<'a> {
    /// Returns what stands under `key`; none where it is absent or null.
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns the object under `key`, to be asked in its turn.
    pub fn object(self, key: &str) -> Option<Self> {
        self.get(key).filter(|value| value.is_object()).map(Self)
    }

    /// Returns a whole number that must be there, of 1 or more.
    pub fn size(self, key: &str) -> Result<u32, Error> {
        self.optional_size(key)?.ok_or_else(|| Error::Config(format!("{key} is missing")))
    }

    /// Returns a whole number of 1 or more, where there is one.
    pub fn optional_size(self, key: &str) -> Result<Option<u32>, Error> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        self.get(key).map(|value| number(value).ok_or_else(|| odd(key, value))).transpose()
    }

    /// Returns the first of several sizes that is there; one must be.
    pub fn size_of(self, keys: &[&str]) -> Result<u32, Error> {
        self.optional_size_of(keys)?.ok_or_else(|| Error::Config(format!("{} is missing", keys.join(" or "))))
    }

    /// Returns the first of several sizes that is there.
    pub fn optional_size_of(self, keys: &[&str]) -> Result<Option<u32>, Error> {
        keys.iter().find_map(|key| self.optional_size(key).transpose()).transpose()
    }

    /// Returns whether the output head is the embedding; `usually` where config.json is silent.
    pub fn is_tied(self, usually: bool) -> Result<bool, Error> {
        Ok(self.optional_bool("tie_word_embeddings")?.unwrap_or(usually))
    }

    /// Returns a finite number, where there is one.
    pub fn optional_float(self, key: &str) -> Result<Option<f64>, Error> {
        let number = |value: &Value| value.as_f64().filter(|x| x.is_finite());
        self.get(key).map(|value| number(value).ok_or_else(|| odd(key, value))).transpose()
    }

    /// Returns a truth value, where there is one.
    pub fn optional_bool(self, key: &str) -> Result<Option<bool>, Error> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| odd(key, value))).transpose()
    }

    /// Returns a text, where there is one.
    pub fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Returns the class of the model: the first of `architectures`, else `model_type`.
    pub fn class(self) -> Result<&'a str, Error> {
        let first = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let missing =
            || Error::Config("neither architectures nor model_type says what the model is".to_owned());
        first.or_else(|| self.text("model_type")).ok_or_else(missing)
    }
}

fn odd(key: &str, value: &Value) -> Error {
    let shown: String = value.to_string().chars().take(60).collect();
    Error::Config(format!("{key} is {shown}, which makes no sense there"))
}
