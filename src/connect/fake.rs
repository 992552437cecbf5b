//! A host that answers as it was told and remembers what it was asked: for tests of the
//! rooms that run scripts.

use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Connection, Error, Output, Piece, Script, Stdin, Talk};

/// How long it waits for more of what it is told in a conversation.
const MOMENT: Duration = Duration::from_millis(50);

/// One run that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The script, whole.
    pub script: Script,
    /// The bytes it was fed.
    pub stdin: Vec<u8>,
}

type Answer = Box<dyn Fn(&Call) -> Result<Output, Error> + Send + Sync>;

/// A scripted host. The first rule whose text is in the script answers.
#[derive(Default)]
pub struct Fake {
    host: String,
    rules: Vec<(String, Answer)>,
    calls: Mutex<Vec<Call>>,
}

impl Fake {
    /// Makes a host that has no answers yet; a script without an answer ends with 127.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), ..Self::default() }
    }

    /// Answers every script that contains `text` with status 0 and `stdout`.
    #[must_use]
    pub fn says(self, text: impl Into<String>, stdout: impl Into<Vec<u8>>) -> Self {
        let stdout = stdout.into();
        self.on(text, move |_| Ok(ended(0, stdout.clone(), "")))
    }

    /// Answers every script that contains `text` with `status` and `stderr`.
    #[must_use]
    pub fn fails(self, text: impl Into<String>, status: i32, stderr: impl Into<String>) -> Self {
        let stderr = stderr.into();
        self.on(text, move |_| Ok(ended(status, Vec::new(), &stderr)))
    }

    /// Answers every script that contains `text` with what `answer` makes of the call.
    #[must_use]
    pub fn on(
        mut self,
        text: impl Into<String>,
        answer: impl Fn(&Call) -> Result<Output, Error> + Send + Sync + 'static,
    ) -> Self {
        self.rules.push((text.into(), Box::new(answer)));
        self
    }

    fn answer(&self, call: &Call) -> Result<Output, Error> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        match self.rules.iter().find(|(text, _)| call.script.text.contains(text.as_str())) {
            Some((_, answer)) => answer(call),
            None => Ok(ended(127, "", &format!("no answer was prepared for: {}", call.script.text))),
        }
    }

    /// Returns every call so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the text of every script so far, in order.
    pub fn scripts(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.script.text).collect()
    }
}

/// Makes an [`Output`].
pub fn ended(status: i32, stdout: impl Into<Vec<u8>>, stderr: &str) -> Output {
    Output { status, stdout: stdout.into(), stderr: stderr.to_owned() }
}

#[async_trait]
impl Connection for Fake {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error> {
        let stdin = match stdin {
            Stdin::Empty => Vec::new(),
            Stdin::Bytes(bytes) => bytes.to_vec(),
        };
        self.answer(&Call { script: script.clone(), stdin })
    }

    /// Listens until nothing more comes for a moment, and then says all of its answer.
    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error> {
        let Talk { mut input, output: mouth } = talk;
        let mut stdin = Vec::new();
        while let Ok(Some(piece)) = tokio::time::timeout(MOMENT, input.recv()).await {
            match piece {
                Piece::Bytes(bytes) => stdin.extend(bytes),
                Piece::Part(file, range) => {
                    let from = stdin.len();
                    let length = usize::try_from(range.end - range.start);
                    let read = length.map_err(std::io::Error::other).and_then(|length| {
                        stdin.resize(from + length, 0);
                        file.read_exact_at(&mut stdin[from..], range.start)
                    });
                    let doing = || "cannot read what is sent".to_owned();
                    read.map_err(|source| Error::Here { doing: doing(), source })?;
                }
            }
        }
        let mut output = self.answer(&Call { script: script.clone(), stdin })?;
        // who does not listen misses it
        drop(mouth.send(std::mem::take(&mut output.stdout)).await);
        drop(mouth);
        while input.recv().await.is_some() {}
        Ok(output)
    }

    fn describe(&self) -> String {
        self.host.clone()
    }
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules: Vec<&String> = self.rules.iter().map(|(text, _)| text).collect();
        f.debug_struct("Fake").field("host", &self.host).field("rules", &rules).finish_non_exhaustive()
    }
}

/// A fake that several owners share is a connection too.
#[async_trait]
impl<C: Connection + ?Sized> Connection for Arc<C> {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error> {
        (**self).run(script, stdin).await
    }

    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error> {
        (**self).talk(script, talk).await
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    async fn close(&self) {
        (**self).close().await;
    }
}
