use std::fmt::Write as _;
use std::io;

use crate::discover::{Candidate, Place};

/// How often a question is put again when its answer cannot be read.
const TRIES: usize = 3;

/// Puts a question to somebody and returns the answer as it was typed.
pub trait Ask {
    /// Puts one question. An empty answer takes what the question says in brackets.
    ///
    /// # Errors
    /// Nobody can be asked any more.
    fn ask(&mut self, question: &str) -> io::Result<String>;
    /// Says something beside.
    fn say(&mut self, text: &str);
}

/// What was said on the command line, so that it is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Machines that were named: no others are taken.
    pub named: Vec<Candidate>,
    /// Whether this machine is to be one of the hosts.
    pub here: Option<bool>,
}

/// A question, with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Which of the machines that were found shall be hosts; those of the numbers where nothing is said.
    Which {
        /// The machines.
        found: Vec<Candidate>,
        /// The numbers of the likely ones, from 0.
        likely: Vec<usize>,
    },
    /// Where hosts are, where none was found.
    Where,
    /// The login on a host.
    Login {
        /// The host's address.
        address: String,
    },
    /// Whether this machine shall answer, too.
    Here,
}

/// The login that Raspberry Pi OS had for years, and most people still choose.
const LOGIN: &str = "pi";

impl Question {
    /// Returns the question in words.
    pub fn text(&self) -> String {
        match self {
            Self::Which { found, likely } => {
                let mut text = "Machines that may become hosts:\n".to_owned();
                for (number, one) in found.iter().enumerate() {
                    let at = if one.name == one.address { String::new() } else { format!(" ({})", one.address) };
                    let _ = writeln!(text, "  {}  {}{at}: {}", number + 1, one.name, one.place.words());
                }
                let likely: Vec<String> = likely.iter().map(|number| (number + 1).to_string()).collect();
                let default = if likely.is_empty() { "none".to_owned() } else { likely.join(" ") };
                let _ = write!(text, "Which ones? Their numbers, `all` or `none` [{default}]: ");
                text
            }
            Self::Where => {
                "No machine was found. The Pis' addresses, as [USER@]ADDRESS, with spaces between [none yet]: ".to_owned()
            }
            Self::Login { address } => format!("The login on {address} [{LOGIN}]: "),
            Self::Here => "Shall this machine answer when a Pi cannot? [yes]: ".to_owned(),
        }
    }
}

/// Finds out which machines are to be hosts, and whether this one is: by what was told, by asking, or, where `ask` is none,
/// by what is likely. Returns also those that are left out.
///
/// # Errors
/// Nobody can be asked any more, or three answers to a question could not be read.
pub fn interview(
    found: Vec<Candidate>,
    told: &Told,
    read: &dyn Fn(&str) -> Option<Candidate>,
    mut ask: Option<&mut dyn Ask>,
) -> io::Result<(Vec<Candidate>, Vec<Candidate>, bool)> {
    let (mut chosen, left) = if !told.named.is_empty() {
        let is_named =
            |one: &Candidate| told.named.iter().any(|named| named.address.eq_ignore_ascii_case(&one.address));
        (told.named.clone(), found.into_iter().filter(|one| !is_named(one)).collect())
    } else if found.is_empty() {
        (where_are_they(read, &mut ask)?, Vec::new())
    } else {
        which(found, &mut ask)?
    };
    for one in &mut chosen {
        // ssh's own configuration may say the login of what is in it
        let is_known = one.user.is_some() || matches!(one.place, Place::SshConfig | Place::SshConfigBehind);
        match &mut ask {
            Some(ask) if !is_known => {
                let question = Question::Login { address: one.address.clone() };
                one.user = Some(put(&question, &mut **ask, &|answer| login(answer))?);
            }
            // what would be the answer of somebody who says nothing; who names a host says its login, too
            None if !is_known && one.place != Place::Named => one.user = Some(LOGIN.to_owned()),
            _ => {}
        }
    }
    let here = match (told.here, ask) {
        (Some(here), _) => here,
        (None, Some(ask)) => put(&Question::Here, ask, &|answer| yes(answer))?,
        (None, None) => true,
    };
    Ok((chosen, left, here))
}

fn which(
    found: Vec<Candidate>,
    ask: &mut Option<&mut dyn Ask>,
) -> io::Result<(Vec<Candidate>, Vec<Candidate>)> {
    let likely: Vec<usize> = (0..found.len()).filter(|number| found[*number].is_pi).collect();
    let numbers = match ask {
        Some(ask) => {
            let question = Question::Which { found: found.clone(), likely: likely.clone() };
            put(&question, &mut **ask, &|answer| numbers(answer, found.len(), &likely))?
        }
        None => likely,
    };
    let (chosen, left): (Vec<_>, Vec<_>) =
        found.into_iter().enumerate().partition(|(number, _)| numbers.contains(number));
    let plain = |all: Vec<(usize, Candidate)>| all.into_iter().map(|(_, one)| one).collect();
    Ok((plain(chosen), plain(left)))
}

fn where_are_they(
    read: &dyn Fn(&str) -> Option<Candidate>,
    ask: &mut Option<&mut dyn Ask>,
) -> io::Result<Vec<Candidate>> {
    let Some(ask) = ask else { return Ok(Vec::new()) };
    put(&Question::Where, &mut **ask, &|answer| {
        if matches!(answer.to_ascii_lowercase().as_str(), "n" | "no" | "none") {
            return Ok(Vec::new());
        }
        // what answers another question could be a name, too
        let is_meant = |word: &str| !["y", "yes", "all"].contains(&word.to_ascii_lowercase().as_str());
        let read = |word: &str| if is_meant(word) { read(word) } else { None };
        answer.split_whitespace().map(|word| read(word).ok_or_else(|| no_host(word))).collect()
    })
}

fn no_host(word: &str) -> String {
    format!(
        "{word:?} is no host: write its name, its IPv4 address or its alias in ~/.ssh/config, such as kitchen.local, 192.168.1.20 or pi@192.168.1.20"
    )
}

/// Puts a question until its answer can be read.
fn put<T>(question: &Question, ask: &mut dyn Ask, read: &dyn Fn(&str) -> Result<T, String>) -> io::Result<T> {
    for _ in 0..TRIES {
        match read(ask.ask(&question.text())?.trim()) {
            Ok(answer) => return Ok(answer),
            Err(why) => ask.say(&why),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "no answer could be read"))
}

fn numbers(answer: &str, count: usize, likely: &[usize]) -> Result<Vec<usize>, String> {
    match answer.to_ascii_lowercase().as_str() {
        "" => return Ok(likely.to_vec()),
        "all" => return Ok((0..count).collect()),
        "none" => return Ok(Vec::new()),
        _ => {}
    }
    let number = |word: &str| {
        let number = word.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        number.filter(|number| *number < count).ok_or_else(|| format!("{word:?} is none of 1 to {count}"))
    };
    answer.split([' ', ',']).filter(|word| !word.is_empty()).map(number).collect()
}

fn login(answer: &str) -> Result<String, String> {
    let answer = if answer.is_empty() { LOGIN } else { answer };
    if super::text::is_login(answer) { Ok(answer.to_owned()) } else { Err(format!("{answer:?} is no login")) }
}

fn yes(answer: &str) -> Result<bool, String> {
    match answer.to_ascii_lowercase().as_str() {
        "" | "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}
