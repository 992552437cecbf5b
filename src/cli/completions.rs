use std::path::PathBuf;

use clap::{Arg, Command};
use clap_complete::{Generator as _, Shell};

use super::arguments::{Completions, DEFAULT_MANIFEST};
use super::environment::Environment;
use super::exit::Exit;
use super::{examples, fleet, output};

/// Has bash complete names, beside what clap's script completes.
const BASH: &str = r#"
_bramble_with_names() {
    _bramble "$@"
    local cur=${COMP_WORDS[COMP_CWORD]} names
    [[ $cur != -* ]] || return 0
    names=$("$1" completions -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ -z $names ]] || mapfile -t COMPREPLY < <(compgen -W "$names" -- "$cur")
}

complete -o bashdefault -o default -F _bramble_with_names bramble
"#;

/// The same for fish.
const FISH: &str = "complete -c bramble -a '(bramble completions -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n";

/// Prints the script that completes words of the command line in a shell, or what that script asks for.
pub(crate) fn run(verb: &Completions) -> anyhow::Result<Exit> {
    let mut command = examples::command(None);
    command.set_bin_name("bramble");
    command.build();
    let Some(shell) = verb.shell else {
        // a shell that completes a word has no place for an error
        for name in names(&command, &verb.words) {
            output::verbatim(&format!("{name}\n"))?;
        }
        return Ok(Exit::Done);
    };
    let mut script = Vec::new();
    shell.try_generate(&command, &mut script)?;
    let names = match shell {
        Shell::Bash => BASH,
        Shell::Fish => FISH,
        _ => "",
    };
    output::verbatim(&(String::from_utf8(script)? + names))?;
    Ok(Exit::Done)
}

/// What a manifest has names of.
enum Kind {
    Host,
    Model,
}

/// Returns the names that may stand for the last of `words`, which follow the program's own; none where it is no name, or the
/// manifest cannot be read.
fn names(command: &Command, words: &[String]) -> Vec<String> {
    let Some(place) = Place::of(command, words) else { return Vec::new() };
    let Ok(manifest) = fleet::load(&place.file) else { return Vec::new() };
    let ours = manifest.ours().map(|(host, _)| host.to_string());
    let orphans = || {
        let lock = fleet::lock(&Environment::lock_path(&place.file), &manifest.fleet);
        let known = lock.map(|lock| lock.hosts.into_keys().collect::<Vec<_>>()).unwrap_or_default();
        let gone = known.into_iter().filter(|host| !manifest.hosts.contains_key(host));
        gone.map(|host| host.to_string()).collect::<Vec<_>>()
    };
    match (place.kind, place.verb) {
        (Kind::Model, _) => manifest.models.keys().map(ToString::to_string).collect(),
        (Kind::Host, "chat") => manifest.hosts.keys().map(ToString::to_string).collect(),
        (Kind::Host, "forget") => orphans(),
        (Kind::Host, "remove" | "revoke-host" | "readmit") => ours.chain(orphans()).collect(),
        (Kind::Host, _) => ours.collect(),
    }
}

/// Where a word stands.
struct Place<'a> {
    verb: &'a str,
    file: PathBuf,
    kind: Kind,
}

impl<'a> Place<'a> {
    fn of(command: &'a Command, words: &[String]) -> Option<Self> {
        let (_, before) = words.split_last()?;
        let (mut command, mut file, mut place) = (command, PathBuf::from(DEFAULT_MANIFEST), 1);
        let mut option: Option<&Arg> = None;
        // bash cuts before and after it
        for word in before.iter().filter(|word| *word != "=") {
            if let Some(of) = option.take() {
                if of.get_id() == "file" {
                    file = PathBuf::from(word);
                }
            } else if let Some((name, value)) = word.strip_prefix("--").and_then(|word| word.split_once('='))
            {
                if name == "file" {
                    file = PathBuf::from(value);
                }
            } else if word.starts_with('-') {
                let is_it = |of: &&Arg| {
                    let long = of.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long));
                    long || of.get_short().is_some_and(|short| word[1..] == *short.encode_utf8(&mut [0; 4]))
                };
                option = command.get_arguments().find(is_it).filter(|of| is_followed(of));
            } else if let Some(verb) = command.find_subcommand(word).filter(|_| place == 1) {
                command = verb;
            } else {
                place += 1;
            }
        }
        let positional = || {
            let many = command.get_positionals().find(|of| is_many(of));
            command.get_positionals().find(|of| of.get_index() == Some(place)).or(many)
        };
        let argument = option.or_else(positional)?;
        let kind = match argument.get_value_names()?.first()?.as_str() {
            "HOST" => Kind::Host,
            "MODEL or SOURCE" => Kind::Model,
            // what `fit` calls so is a source
            "MODEL" if !argument.is_positional() => Kind::Model,
            _ => return None,
        };
        Some(Self { verb: command.get_name(), file, kind })
    }
}

fn is_followed(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
}

fn is_many(argument: &Arg) -> bool {
    argument.get_num_args().is_some_and(|range| range.max_values() > 1)
}
