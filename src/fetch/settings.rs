use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Url;
use zeroize::Zeroizing;

use super::guard;
use crate::units::Bytes;

/// The environment variable that has the hub's token.
pub const TOKEN_VARIABLE: &str = "HF_TOKEN";

/// Where things are fetched from and kept, with the hub's own environment variables.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub: `https://huggingface.co`, or `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_TOKEN`, or what stands in `HF_TOKEN_PATH` or `$HF_HOME/token`. Never leaves for
    /// another host than the endpoint.
    pub token: Option<Token>,
    /// Hosts of the proxies that the environment names: they may be on a network of this machine's own.
    pub proxies: Vec<String>,
    /// Our cache, the root of the store: `$XDG_CACHE_HOME/bramble` or `~/.cache/bramble`.
    pub cache: PathBuf,
    /// The cache of the hub's Python client, looked at and never changed: `HF_HUB_CACHE` or `$HF_HOME/hub`.
    pub hub_cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: nothing goes over the network.
    pub is_offline: bool,
    /// What a relative `file:` source is relative to: the folder of the manifest.
    pub folder: PathBuf,
    /// How long and how often.
    pub patience: Patience,
    /// How many connections.
    pub lanes: Lanes,
    /// Bytes a second that everything together may take; none means all that there is.
    pub limit_rate: Option<Bytes>,
}

/// How many connections fetch what.
#[derive(Debug, Clone, Copy)]
pub struct Lanes {
    /// For one file.
    pub per_file: usize,
    /// For everything.
    pub total: usize,
    /// A long file is fetched in pieces of this size.
    pub segment: Bytes,
}

impl Default for Lanes {
    /// One connection over a way with 100 ms and some loss gets a few MB/s out of any line;
    /// four to eight fill those that people have. At 16 MiB, asking for the next piece
    /// costs little time, and what is hashed in order is never far behind.
    fn default() -> Self {
        Self { per_file: 4, total: 8, segment: Bytes::mib(16) }
    }
}

/// How long to wait and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub idle: Duration,
    /// Failures in a row, without a byte in between, before giving up.
    pub attempts: u32,
    /// The pause after the first failure; it doubles from one to the next.
    pub first_pause: Duration,
    /// The longest pause of our own choice.
    pub longest_pause: Duration,
    /// The longest wait that the hub may ask for; beyond it the error is shown at once.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            // a healthy CDN is never silent for this long, and a router that forgot the connection is
            idle: Duration::from_secs(30),
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            // the hub counts requests in windows of 5 minutes (huggingface.co/docs/hub/rate-limits)
            longest_wait: Duration::from_secs(330),
        }
    }
}

/// A secret. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes `text` without the white space around it; nothing is no token.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Settings {
    /// Reads the environment and the token file.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the hub's variables")]
    pub fn from_env() -> Self {
        Self::read(|name| std::env::var_os(name))
    }

    /// Reads the variables that `get` knows. An empty one counts as unset.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| get(name).map(PathBuf::from);
        let caches = path("XDG_CACHE_HOME")
            .or_else(|| path("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from(".cache"));
        let hub_home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let is_true = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        Self {
            proxies: PROXIES.iter().filter_map(|name| host(&text(name)?)).collect(),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: text(TOKEN_VARIABLE)
                .and_then(|text| Token::new(&text))
                .or_else(|| token_file(&token_path)),
            cache: caches.join("bramble"),
            hub_cache: Some(path("HF_HUB_CACHE").unwrap_or_else(|| hub_home.join("hub"))),
            is_offline: text("HF_HUB_OFFLINE").is_some_and(is_true),
            folder: PathBuf::from("."),
            patience: Patience::default(),
            lanes: Lanes::default(),
            limit_rate: None,
        }
    }
}

/// The variables that name proxies, in the forms that are in use.
const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// The host of a proxy's address, which may stand there without its scheme.
fn host(proxy: &str) -> Option<String> {
    let url =
        Url::parse(proxy).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{proxy}")).ok());
    url?.host_str().map(str::to_owned)
}

fn token_file(path: &Path) -> Option<Token> {
    let mut text = Zeroizing::new(String::new());
    // a token has some 40 bytes; whatever is longer is something else
    fs::File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
    Token::new(&text)
}

type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<Bytes> + Send + Sync>;
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;
type Pause = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// What fetching asks of the machine, to be answered differently by tests.
#[derive(Clone)]
pub struct Machine {
    /// Bytes that may still be written to the filesystem of a folder.
    pub free_space: FreeSpace,
    /// Waits.
    pub pause: Pause,
    /// Returns the addresses of a name.
    pub lookup: Lookup,
    /// Tells whether an address is one of the internet, and not of this machine's own networks.
    pub is_public: fn(IpAddr) -> bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            free_space: Arc::new(|folder| {
                let answer = rustix::fs::statvfs(folder)?;
                Ok(Bytes(answer.f_bavail.saturating_mul(answer.f_frsize)))
            }),
            pause: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))),
            lookup: Arc::new(|name| {
                Box::pin(async move {
                    let found = tokio::net::lookup_host((name, 0)).await?;
                    Ok(found.map(|address| address.ip()).collect())
                })
            }),
            is_public: guard::is_public,
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Settings {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Settings::read(find)
    }

    #[test]
    fn without_variables_the_public_hub_is_meant() {
        let settings = read(&[("HOME", "/nowhere"), ("HF_ENDPOINT", ""), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(settings.endpoint, "https://huggingface.co");
        assert_eq!(settings.token, None);
        assert_eq!(settings.cache, Path::new("/nowhere/.cache/bramble"));
        assert_eq!(settings.hub_cache.as_deref(), Some(Path::new("/nowhere/.cache/huggingface/hub")));
        assert!(!settings.is_offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_then_from_its_file_then_from_the_home() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("token"), "from-home\n").unwrap();
        fs::write(path("other"), " from-path ").unwrap();
        let (home, other) = (path(""), path("other"));
        let all = [("HF_HOME", home.as_str()), ("HF_TOKEN_PATH", &other), ("HF_TOKEN", "direct\n")];
        assert_eq!(read(&all).token, Token::new("direct"));
        assert_eq!(read(&all[..2]).token, Token::new("from-path"));
        assert_eq!(read(&all[..1]).token, Token::new("from-home"));
    }

    #[test]
    fn a_token_is_never_printed() {
        let settings = read(&[("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "YES")]);
        assert!(settings.is_offline);
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
