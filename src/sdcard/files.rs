use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::{Address, Card, Error, System, Wifi};
use crate::ids::Digest;

const USER_DATA: &str = include_str!("../../templates/sdcard-user-data.j2");
const NETWORK_CONFIG: &str = include_str!("../../templates/sdcard-network-config.j2");

/// Where the running system has its boot partition. Raspberry Pi OS and Ubuntu agree since 2023.
const USER_DATA_PATH: &str = "/boot/firmware/user-data";

/// What cloud-init reads, by the names that it looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `user-data`.
    pub user_data: String,
    /// `network-config`.
    pub network_config: String,
    /// `meta-data`.
    pub meta_data: String,
}

/// What the templates are given.
#[derive(Serialize)]
struct Given<'a> {
    card: &'a Card,
    links: Vec<Link<'a>>,
    is_ubuntu: bool,
    user_data_path: &'static str,
}

/// One network card.
#[derive(Serialize)]
struct Link<'a> {
    kind: &'static str,
    name: &'static str,
    address: Option<&'a Address>,
    wifi: Option<&'a Wifi>,
}

/// Writes the files of a card.
///
/// # Errors
/// What [`Card`] has that no system takes.
pub fn files(card: &Card, system: System) -> Result<Files, Error> {
    check(card)?;
    let fixed = card.address.as_ref();
    let wifi = card.wifi.as_ref();
    let wired = fixed.filter(|_| wifi.is_none());
    let mut links = vec![Link { kind: "ethernets", name: "eth0", address: wired, wifi: None }];
    if wifi.is_some() {
        links.push(Link { kind: "wifis", name: "wlan0", address: fixed, wifi });
    }
    let is_ubuntu = system == System::Ubuntu;
    let given = Given { card, links, is_ubuntu, user_data_path: USER_DATA_PATH };
    let render = |template| render(template, &given).map_err(|error| Error::Template(error.to_string()));
    let (user_data, network_config) = (render(USER_DATA)?, render(NETWORK_CONFIG)?);
    // another one for what is another, so that a card that has booted before is set up anew
    let id = Digest::of(format!("{user_data}\0{network_config}").as_bytes());
    let meta_data = format!("dsmode: local\ninstance-id: bramble-{}-{}\n", card.name, id.short());
    Ok(Files { user_data, network_config, meta_data })
}

fn render(template: &str, given: &Given<'_>) -> Result<String, minijinja::Error> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax.build()?);
    environment.template_from_str(template)?.render(minijinja::value::Serde(given))
}

fn check(card: &Card) -> Result<(), Error> {
    let user = card.user.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let is_login = user.first().is_some_and(u8::is_ascii_lowercase) && user.iter().all(inner);
    if !is_login || user.len() > 32 || card.user == "root" {
        return Err(Error::User { user: card.user.clone() });
    }
    if let Some(wifi) = &card.wifi
        && (wifi.country.len() != 2 || !wifi.country.bytes().all(|b| b.is_ascii_uppercase()))
    {
        return Err(Error::Country(wifi.country.clone()));
    }
    if let Some(zone) = &card.timezone {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
        if zone.is_empty() || zone.starts_with('/') || !zone.chars().all(inner) {
            return Err(Error::Timezone(zone.clone()));
        }
    }
    Ok(())
}
