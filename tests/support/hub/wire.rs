//! HTTP by hand, so that a cut after k bytes is a cut after exactly k bytes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Fault;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Text(String),
    File { path: PathBuf, range: Range<u64>, zeros: u64 },
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { status: 200, headers, body: Body::Text(value.to_string()) }
    }

    pub(crate) fn refuse(status: u16, code: &str) -> Self {
        let mut headers = vec![("X-Error-Message", format!("the double says {status}"))];
        if !code.is_empty() {
            headers.push(("X-Error-Code", code.to_owned()));
        }
        Self { status, headers, body: Body::Text(String::new()) }
    }
}

pub(crate) async fn read_request(stream: &mut TcpStream) -> io::Result<Request> {
    let mut lines = BufReader::new(stream.take(64 << 10)).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(Request { method, path, headers })
}

pub(crate) async fn send(
    stream: &mut TcpStream,
    request: &Request,
    reply: Reply,
    stop: u64,
    fault: Option<&Fault>,
) -> io::Result<()> {
    let length = match &reply.body {
        Body::Text(text) => text.len() as u64,
        Body::File { range, zeros, .. } => range.end - range.start + zeros,
    };
    let mut head =
        format!("HTTP/1.1 {} Double\r\nConnection: close\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match reply.body {
        Body::Text(text) => stream.write_all(text.as_bytes()).await,
        Body::File { path, range, zeros } => {
            let mut file = fs::File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let end = range.end.min(range.start.saturating_add(stop));
            let mut at = range.start;
            let mut buffer = vec![0; 64 << 10];
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let n = file.read(&mut buffer[..want])?;
                if n == 0 {
                    break;
                }
                if let Some(Fault::Flip(flip)) = fault
                    && let Some(offset) = flip.checked_sub(at)
                    && let Some(byte) = usize::try_from(offset).ok().and_then(|i| buffer[..n].get_mut(i))
                {
                    *byte ^= 1;
                }
                let dripping = match fault {
                    Some(Fault::Drip(after)) => (range.start + after).checked_sub(at).unwrap_or(n as u64),
                    _ => n as u64,
                };
                let dripping = usize::try_from(dripping).unwrap_or(n).min(n);
                stream.write_all(&buffer[..dripping]).await?;
                let (drops, rest) = buffer[dripping..n].split_at((n - dripping).min(20));
                for drop in drops {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    stream.write_all(&[*drop]).await?;
                }
                stream.write_all(rest).await?;
                at += n as u64;
            }
            if stop == u64::MAX && zeros > 0 {
                stream.write_all(&vec![0; usize::try_from(zeros).unwrap_or(0)]).await?;
            }
            stream.flush().await
        }
    }
}
