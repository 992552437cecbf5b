//! Where the token goes.

use bramble_fleet::fetch::Token;

use crate::bench::{Bench, source};
use crate::hub::{Door, Seen};

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_cdn() {
    let bench = Bench::new().await;
    let fetcher = bench.fetcher(|settings| settings.token = Token::new("hf_secret"));
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    fetcher.describe(&pinned).await.unwrap();
    fetcher.obtain(&pinned).await.unwrap();
    let seen = bench.hub.take_seen();
    let (cdn, hub): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|seen| seen.door == Door::Cdn);
    assert!(cdn.len() >= 2 && cdn.iter().all(|seen| seen.authorization.is_none()));
    assert!(hub.len() >= 5);
    assert!(seen.iter().all(|seen| seen.method == "GET"));
    assert!(hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(!format!("{fetcher:?}").contains("hf_secret"));
}
