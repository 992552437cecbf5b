//! Where hosts would go back to, and what would run there then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::hosts::Subject;
use crate::connect::{Script, Stdin, quote};
use crate::facts::Receipt;
use crate::generation::{Definition, Layout};
use crate::ids::{Generation, HostName};
use crate::install;

/// Two small files are read.
const LIMIT: Duration = Duration::from_secs(30);

/// Where a host would go back to.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    /// The generation.
    pub generation: Generation,
    /// What it runs; none where the host does not tell.
    pub definition: Option<Definition>,
}

/// Where hosts go back to.
#[derive(Debug, Default, PartialEq)]
pub struct WaysBack {
    /// Those that tell.
    pub known: BTreeMap<HostName, Earlier>,
    /// Those that have nothing to go back to, with what they would say.
    pub nothing: BTreeMap<HostName, String>,
}

/// Looks where each of `subjects` goes back to: to the generation `to`, or where it would by itself. Takes those out of
/// `subjects` that have nothing to go back to; of those that do not tell nothing is said. Nothing is changed.
pub async fn ways_back(subjects: &mut Vec<Subject>, to: Option<Generation>) -> WaysBack {
    let told = futures_util::future::join_all(subjects.iter().map(|subject| subject.way_back(to))).await;
    let mut ways = WaysBack::default();
    let mut told = told.into_iter();
    subjects.retain(|subject| match told.next().flatten() {
        Some(Some(earlier)) => {
            ways.known.insert(subject.host.clone(), earlier);
            true
        }
        Some(None) => {
            ways.nothing.insert(subject.host.clone(), install::Error::NothingEarlier.to_string());
            false
        }
        None => true,
    });
    ways
}

impl Subject {
    /// Returns where the host goes back to, if anywhere; none where it does not tell.
    async fn way_back(&self, to: Option<Generation>) -> Option<Option<Earlier>> {
        let generation = match to {
            Some(to) => Some(to),
            None => self.usual().await?,
        };
        let Some(generation) = generation else { return Some(None) };
        let path = Layout::definition(&self.layout.generation(generation));
        let text = self.read(&format!("cat {}", quote(&path.display().to_string()))).await;
        let definition = text.and_then(|text| serde_json::from_slice(&text).ok());
        Some(Some(Earlier { generation, definition }))
    }

    /// Returns where the host goes when nobody says, by what it would decide that itself; none where it does not tell.
    async fn usual(&self) -> Option<Option<Generation>> {
        let root = quote(&self.layout.root().display().to_string());
        if self.installed.pending.is_some() {
            let text = self.read(&format!("sed -n 's/^previous=//p' {root}/pending")).await?;
            if let Ok(previous) = String::from_utf8(text).ok()?.trim().parse() {
                return Some(Some(previous));
            }
        }
        let receipt = self.read(&format!("[ ! -e {root}/receipt.json ] || cat {root}/receipt.json")).await?;
        // a diary that cannot be read counts as none, there as here
        let receipt: Receipt = serde_json::from_slice(&receipt).unwrap_or_default();
        Some(install::earlier(&receipt, &self.installed.generations, self.current()))
    }

    async fn read(&self, text: &str) -> Option<Vec<u8>> {
        let script = Script { text: text.to_owned(), is_root: self.is_root, timeout: LIMIT };
        let output = self.connection.run(&script, Stdin::Empty).await.ok()?;
        (output.status == 0).then_some(output.stdout)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connect::fake::Fake;
    use crate::facts::ReceiptEntry;
    use crate::plan::testing::Fleet;

    fn subject(installed: crate::facts::Installed, way: Fake) -> Subject {
        let (connection, fresh) = (Arc::new(way), Arc::new(Fake::new("attic")));
        let (host, layout) = ("attic".parse().unwrap(), Layout::new("/var/lib/bramble"));
        Subject { host, layout, is_root: true, installed, connection, fresh }
    }

    #[tokio::test]
    async fn a_host_goes_back_to_what_its_diary_has_as_confirmed_last() {
        let mut fleet = Fleet::new();
        fleet.apply();
        let mut installed = fleet.facts("attic").installed.clone().unwrap();
        let definition = installed.current.clone().unwrap().1;
        // 3 was gone back from before
        installed.current = Some((Generation::new(2), definition.clone()));
        installed.generations = [1, 2, 3].map(Generation::new).to_vec();
        let entry = |number| ReceiptEntry {
            generation: Generation::new(number),
            plan: String::new(),
            at: String::new(),
            by: String::new(),
            predicted: Vec::new(),
            measured: Vec::new(),
        };
        let receipt = Receipt { entries: [1, 2, 3, 2].map(entry).to_vec() };
        let diary = "cat '/var/lib/bramble'/receipt.json";
        let tells = |way: Fake| {
            way.says(diary, serde_json::to_vec(&receipt).unwrap())
                .says("/generations/3/definition.json", serde_json::to_vec(&definition).unwrap())
        };
        let found = async |subject: Subject, to: Option<u64>| {
            let mut subjects = vec![subject];
            let ways = ways_back(&mut subjects, to.map(Generation::new)).await;
            assert_eq!(subjects.is_empty(), !ways.nothing.is_empty());
            (ways.known.into_values().next(), ways.nothing.into_values().next())
        };
        let known =
            |number, definition| (Some(Earlier { generation: Generation::new(number), definition }), None);
        let nothing = (None, Some(install::Error::NothingEarlier.to_string()));
        let asked = subject(installed.clone(), tells(Fake::new("attic")));
        assert_eq!(found(asked, None).await, known(3, Some(definition.clone())));
        let asked = subject(installed.clone(), tells(Fake::new("attic")));
        assert_eq!(found(asked, Some(1)).await, known(1, None), "that one is not told of");
        // no diary: the one below; a diary that is not told: nobody knows
        let silent = Fake::new("attic").says(diary, "");
        assert_eq!(found(subject(installed.clone(), silent), None).await, known(1, None));
        let gone = Fake::new("attic").fails(diary, 255, "Connection closed");
        assert_eq!(found(subject(installed.clone(), gone), None).await, (None, None));
        // what was never confirmed goes back to what it came from, or to what the diary says where it came from nothing
        installed.pending = Some(Generation::new(2));
        let came_from = |previous: &str| {
            Fake::new("attic").says("sed -n 's/^previous=//p' '/var/lib/bramble'/pending", previous)
        };
        assert_eq!(found(subject(installed.clone(), came_from("1\n")), None).await, known(1, None));
        let asked = subject(installed.clone(), tells(came_from("\n")));
        assert_eq!(found(asked, None).await, known(3, Some(definition.clone())));
        // only one that was never confirmed, and is above; and nothing but what is in force
        installed.pending = None;
        for laid_out in [vec![2, 3], vec![2]] {
            installed.generations = laid_out.into_iter().map(Generation::new).collect();
            let asked = subject(installed.clone(), Fake::new("attic").says(diary, ""));
            assert_eq!(found(asked, None).await, nothing);
        }
    }
}
