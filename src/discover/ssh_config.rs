//! The hosts that an ssh configuration names, with what ssh would not find out by their addresses.

use super::{Candidate, MOST, Place, is_pi_name};

/// How deep files may include others, as in ssh.
const DEEPEST: usize = 16;
/// The most lines that are read in all.
const MOST_LINES: usize = 20_000;
/// The most blocks of lines that are kept.
const MOST_BLOCKS: usize = 2_000;

/// Machines that hold code and take no services.
const FORGES: [&str; 7] = [
    "github.com",
    "gitlab.com",
    "bitbucket.org",
    "codeberg.org",
    "git.sr.ht",
    "ssh.dev.azure.com",
    "aur.archlinux.org",
];

/// The lines below one `Host`.
#[derive(Debug, Default)]
struct Block {
    patterns: Vec<String>,
    /// Lower-case keywords with their values, in order.
    options: Vec<(String, String)>,
}

/// Returns the hosts that a configuration names without wildcards, in order. `include` returns the texts of the files that
/// a pattern of `Include` means.
pub(super) fn candidates(text: &str, include: &mut dyn FnMut(&str) -> Vec<String>) -> Vec<Candidate> {
    let mut reader = Reader {
        blocks: vec![Block { patterns: vec!["*".to_owned()], options: Vec::new() }],
        left: MOST_LINES,
    };
    reader.read(text, 0, include);
    let blocks = reader.blocks;
    let mut names: Vec<&String> = Vec::new();
    for name in blocks.iter().flat_map(|block| &block.patterns) {
        if !name.contains(['*', '?', '!']) && !names.contains(&name) && names.len() < MOST {
            names.push(name);
        }
    }
    names.into_iter().filter_map(|name| candidate(name, &blocks)).collect()
}

struct Reader {
    blocks: Vec<Block>,
    /// Lines that may still be read.
    left: usize,
}

impl Reader {
    fn read(&mut self, text: &str, depth: usize, include: &mut dyn FnMut(&str) -> Vec<String>) {
        for line in text.lines() {
            if self.left == 0 || self.blocks.len() >= MOST_BLOCKS {
                return;
            }
            self.left -= 1;
            let Some((keyword, values)) = words(line) else { continue };
            match keyword.as_str() {
                "host" => self.blocks.push(Block { patterns: values, options: Vec::new() }),
                // when it holds, only ssh knows
                "match" => self.blocks.push(Block::default()),
                "include" if depth < DEEPEST => {
                    for pattern in &values {
                        for text in include(pattern) {
                            self.read(&text, depth + 1, include);
                        }
                    }
                }
                _ => {
                    if let (Some(block), Some(value)) = (self.blocks.last_mut(), values.into_iter().next()) {
                        block.options.push((keyword, value));
                    }
                }
            }
        }
    }
}

/// Cuts a line into its keyword, in lower case, and its values, which may be quoted.
fn words(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let (mut values, mut value, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in rest.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            c if c.is_whitespace() && !is_quoted => values.push(std::mem::take(&mut value)),
            c => value.push(c),
        }
    }
    values.push(value);
    values.retain(|value| !value.is_empty());
    Some((keyword.to_ascii_lowercase(), values))
}

/// Returns whether a block is for `name`: one of its patterns matches, and none that is negated does.
fn is_for(block: &Block, name: &str) -> bool {
    let (no, yes): (Vec<&String>, Vec<&String>) =
        block.patterns.iter().partition(|pattern| pattern.starts_with('!'));
    let is_one =
        |patterns: &[&String]| patterns.iter().any(|pattern| matches(pattern.trim_start_matches('!'), name));
    is_one(&yes) && !is_one(&no)
}

/// Returns whether `text` is as a pattern says, in which `*` stands for any text and `?` for one character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // of two stars only the last need be gone back to
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn candidate(name: &str, blocks: &[Block]) -> Option<Candidate> {
    // of several values, ssh takes the first
    let option = |keyword: &str| {
        let mut blocks = blocks.iter().filter(|block| is_for(block, name));
        blocks
            .find_map(|block| block.options.iter().find(|(key, _)| key == keyword))
            .map(|(_, value)| value.clone())
    };
    let host = option("hostname").map(|host| host.replace("%h", name)).filter(|host| !host.contains('%'));
    let user = option("user");
    let is_forge = |host: &str| FORGES.iter().any(|forge| host.eq_ignore_ascii_case(forge));
    if user.as_deref() == Some("git") || is_forge(name) || host.as_deref().is_some_and(is_forge) {
        return None;
    }
    let is_behind = ["proxyjump", "proxycommand"]
        .iter()
        .any(|keyword| option(keyword).is_some_and(|way| !way.eq_ignore_ascii_case("none")));
    let (address, is_alias) = match host {
        Some(host) if !is_behind => (host, false),
        // by the name that it has there, ssh finds the rest by itself
        _ => (name.to_owned(), true),
    };
    let or_none = |value: Option<String>| if is_alias { None } else { value };
    Some(Candidate {
        name: name.to_owned(),
        is_pi: is_pi_name(name) || is_pi_name(&address) || user.as_deref() == Some("pi"),
        seen_at: address.parse().into_iter().collect(),
        port: or_none(option("port")).and_then(|port| port.parse().ok()).filter(|port| *port != 22),
        identity: or_none(option("identityfile")).filter(|path| !path.contains('%')),
        user: or_none(user),
        address,
        place: if is_behind { Place::SshConfigBehind } else { Place::SshConfig },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<Candidate> {
        candidates(text, &mut |_| Vec::new())
    }

    #[test]
    fn hosts_are_found_with_what_ssh_would_not_find_by_their_address() {
        let text = "\
# mine
User everywhere
Host kitchen kitchen-alias
    HostName 192.168.1.20
    Port = 2222
    IdentityFile \"~/.ssh/fleet\"
Host *.lan !secret.lan
    User lan
host shed.lan
    Port 22
Host secret.lan
Host behind
    HostName 10.0.0.9
    User ann
    ProxyJump gate
Host github.com
    User git
Host mirror
    HostName gitlab.com
Match host tower
    User other
Host loft
    HostName %h.home
";
        let found = found(text);
        let of = |name: &str| found.iter().find(|one| one.name == name).unwrap();
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["kitchen", "kitchen-alias", "shed.lan", "secret.lan", "behind", "loft"]);
        let kitchen = of("kitchen");
        assert_eq!((kitchen.address.as_str(), kitchen.port), ("192.168.1.20", Some(2222)));
        assert_eq!(
            (kitchen.user.as_deref(), kitchen.identity.as_deref()),
            (Some("everywhere"), Some("~/.ssh/fleet"))
        );
        assert_eq!(kitchen.seen_at.len(), 1);
        // ssh finds the login of these by itself
        assert_eq!((of("shed.lan").address.as_str(), of("shed.lan").user.as_deref()), ("shed.lan", None));
        assert_eq!((of("behind").address.as_str(), of("behind").place), ("behind", Place::SshConfigBehind));
        assert_eq!(of("loft").address, "loft.home");
    }

    #[test]
    fn files_that_include_themselves_come_to_an_end() {
        let text = "Include self\nHost one\nInclude self\n";
        let mut asked = 0;
        let found = candidates(text, &mut |_| {
            asked += 1;
            vec![text.to_owned()]
        });
        assert_eq!(found.len(), 1);
        assert!(asked < MOST_LINES);
    }

    #[test]
    fn patterns_match_as_in_ssh() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("192.168.?.*", "192.168.1.20", true),
            ("*.lan", "a.lan", true),
            ("*.lan", "a.lan.x", false),
            ("a*b*c", "aXbbYc", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(?s)((host|hostname|user|include|match)?[ =\"\t]?.{0,20}\n?){0,30}") {
            prop_assert!(found(&text).len() <= MOST);
        }
    }
}
