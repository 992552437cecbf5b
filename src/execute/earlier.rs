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

/// Looks where each of `subjects` goes back to: to the generation `to`, or where it would by itself. Those that do not
/// tell, or have nothing earlier, are left out. Nothing is changed.
pub async fn earlier(subjects: &[Subject], to: Option<Generation>) -> BTreeMap<HostName, Earlier> {
    let all = subjects.iter().map(async |subject| Some((subject.host.clone(), subject.earlier(to).await?)));
    futures_util::future::join_all(all).await.into_iter().flatten().collect()
}

/// Takes those out of `subjects` that have no generation beside the one in force. Returns them with what they would say.
pub fn without_earlier(subjects: &mut Vec<Subject>) -> BTreeMap<HostName, String> {
    let is_alone = |subject: &mut Subject| {
        let current = subject.current();
        subject.installed.generations.iter().all(|number| Some(*number) == current)
    };
    let why = install::Error::NothingEarlier.to_string();
    subjects.extract_if(.., is_alone).map(|subject| (subject.host, why.clone())).collect()
}

impl Subject {
    async fn earlier(&self, to: Option<Generation>) -> Option<Earlier> {
        let generation = match to {
            Some(to) => to,
            None => self.usual().await?,
        };
        let path = Layout::definition(&self.layout.generation(generation));
        let text = self.read(&format!("cat {}", quote(&path.display().to_string()))).await;
        let definition = text.and_then(|text| serde_json::from_slice(&text).ok());
        Some(Earlier { generation, definition })
    }

    /// Returns where the host goes when nobody says, by what it would decide that itself.
    async fn usual(&self) -> Option<Generation> {
        let root = quote(&self.layout.root().display().to_string());
        if self.installed.pending.is_some() {
            let text = self.read(&format!("sed -n 's/^previous=//p' {root}/pending")).await?;
            return String::from_utf8(text).ok()?.trim().parse().ok();
        }
        let receipt = self.read(&format!("cat {root}/receipt.json")).await;
        let receipt: Receipt =
            receipt.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        install::earlier(&receipt, &self.installed.generations, self.current())
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
        let tells = |way: Fake| {
            way.says("cat '/var/lib/bramble'/receipt.json", serde_json::to_vec(&receipt).unwrap())
                .says("/generations/3/definition.json", serde_json::to_vec(&definition).unwrap())
        };
        let found = async |subject: Subject, to: Option<u64>| {
            earlier(&[subject], to.map(Generation::new)).await.into_values().next()
        };
        let known = |number, definition| Some(Earlier { generation: Generation::new(number), definition });
        let asked = subject(installed.clone(), tells(Fake::new("attic")));
        assert_eq!(found(asked, None).await, known(3, Some(definition.clone())));
        let asked = subject(installed.clone(), tells(Fake::new("attic")));
        assert_eq!(found(asked, Some(1)).await, known(1, None), "that one is not told of");
        // what was never confirmed goes back to what it came from
        installed.pending = Some(Generation::new(2));
        let pending = Fake::new("attic").says("sed -n 's/^previous=//p' '/var/lib/bramble'/pending", "1\n");
        assert_eq!(found(subject(installed.clone(), pending), None).await, known(1, None));
        // no diary and nothing below
        installed.pending = None;
        installed.generations = vec![Generation::new(2)];
        assert_eq!(found(subject(installed, Fake::new("attic")), None).await, None);
    }
}
