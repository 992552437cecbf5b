//! A hub, a mirror or a link that sends us where it has no business.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bramble_fleet::events::Events;
use bramble_fleet::fetch::{Error, Fetcher, Machine, Settings, Token};
use bramble_fleet::source::SourceRef;
use bramble_fleet::units::Bytes;
use tokio::net::TcpListener;

use crate::bench::{Bench, MODEL, source};
use crate::hub::{Door, Fault};

/// What stands for this machine's own network in these tests; the double of the hub, on 127.0.0.1, for the internet.
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A fetcher for whom the double is on the internet, and the names are where `lookup` says.
fn on_the_internet(bench: &Bench, change: impl FnOnce(&mut Settings)) -> Fetcher {
    let machine = Machine {
        is_public: |address| address != INSIDE,
        lookup: Arc::new(|name| {
            Box::pin(async move {
                Ok(vec![if name == "inside.test" { INSIDE } else { Ipv4Addr::LOCALHOST.into() }])
            })
        }),
        ..bench.machine(Bytes::gib(1))
    };
    let mut settings = bench.settings();
    change(&mut settings);
    Fetcher::on(settings, Events::new(|_| {}), machine).unwrap()
}

/// The error with its causes.
fn whole(error: &Error) -> String {
    bramble_fleet::causes::with_causes(error)
}

#[tokio::test]
async fn a_hub_on_the_internet_sends_nobody_inside_by_number_or_by_name() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind((INSIDE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fetcher = on_the_internet(&bench, |_| {});
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    for (to, why) in [
        (format!("http://{INSIDE}:{port}/secret"), "network of this machine's own"),
        (format!("http://inside.test:{port}/secret"), "network of this machine's own"),
        (format!("http://127.2:{port}/secret"), "network of this machine's own"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "nothing is fetched from"),
        ("file:///etc/passwd".to_owned(), "unencrypted"),
        ("http://user:pass@127.0.0.1/".to_owned(), "login"),
    ] {
        bench.hub.fail_always(Door::Resolve, MODEL, Fault::Lead(to.clone()));
        let error = fetcher.obtain(&pinned).await.unwrap_err();
        assert!(whole(&error).contains(why), "{to}: {}", whole(&error));
        assert!(!error.is_transient(), "{to}: it is not tried again");
        bench.hub.control().rules.clear();
    }
    let waiting = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(waiting.is_err(), "somebody called there");
    fetcher.obtain(&pinned).await.unwrap();
}

#[tokio::test]
async fn a_mirror_inside_may_have_its_files_inside() {
    let bench = Bench::new().await;
    // here the double is no part of the internet, as on any machine; its second port has the files
    let fetcher = bench.plain();
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    fetcher.obtain(&pinned).await.unwrap();
    assert!(bench.hub.take_seen().iter().any(|seen| seen.door == Door::Cdn));
}

#[tokio::test]
async fn the_token_stays_at_home_even_when_somebody_else_sends_us_back_to_the_hub() {
    let bench = Bench::new().await;
    let fetcher = on_the_internet(&bench, |settings| settings.token = Token::new("hf_secret"));
    let elsewhere = Bench::new().await;
    let back = format!("{}/org/tiny/resolve/main/{MODEL}", bench.hub.endpoint);
    elsewhere.hub.fail_always(Door::Resolve, "m.gguf", Fault::Lead(back));
    let link = format!("{}/a/b/resolve/main/m.gguf", elsewhere.hub.endpoint);
    // whatever comes of it
    drop(fetcher.pin(&SourceRef::Url(link)).await);
    let seen: Vec<_> = [elsewhere.hub.take_seen(), bench.hub.take_seen()].concat();
    assert!(seen.iter().any(|seen| seen.path.contains(MODEL)), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}
