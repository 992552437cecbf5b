//! How much a key may ask.

use std::time::Duration;

use super::doubles::*;
use super::{CHAT, House, Told, prompt};
use crate::generation::{Limits, Secrets};
use hyper::Method;

/// A house in which `CLIENT`'s key has these limits.
fn house(limits: Limits) -> House {
    let house = House::new();
    let mut secrets: Secrets = secrets();
    secrets.keys[0].limits = limits;
    install_with(house.root.path(), 8, &definition(), &secrets);
    house.door.reload().unwrap();
    house
}

async fn ask(house: &House, path: &str, key: &str) -> Told {
    Told::read(house.send(Method::POST, path, key, &prompt(false)).await).await
}

#[tokio::test(start_paused = true)]
async fn a_key_that_asks_too_often_is_told_when_to_come_again_and_others_are_not() {
    let house = house(Limits { requests_per_minute: Some(2), ..Limits::default() });
    house.universe.on("local", [completion("chat", "x")]);
    assert_eq!((ask(&house, CHAT, CLIENT).await.status, ask(&house, CHAT, CLIENT).await.status), (200, 200));
    let told = ask(&house, CHAT, CLIENT).await;
    assert_eq!((told.status, told.header("retry-after")), (429, "30"));
    let error = &told.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&"rate_limit_exceeded".into(), &"requests".into()));
    assert_eq!(
        error["message"],
        "the key \"laptop\" may have 2 requests a minute at this door; try again in 30 s"
    );
    // before anything was done for it, and whichever path it takes
    assert_eq!(house.universe.dialled().len(), 2);
    assert_eq!(ask(&house, "/tokenize", CLIENT).await.status, 429);
    assert_eq!(ask(&house, CHAT, PEER).await.status, 200);
    // what costs nothing is not counted
    let models = Told::read(house.send(Method::GET, "/v1/models", CLIENT, "").await).await;
    assert_eq!(models.status, 200);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(ask(&house, CHAT, CLIENT).await.status, 200);
    // a new generation forgives nothing
    house.door.reload().unwrap();
    assert_eq!(ask(&house, CHAT, CLIENT).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_until_its_answer_has_ended_or_its_client_has_left() {
    let house = house(Limits { concurrent: Some(1), ..Limits::default() });
    house.universe.on("local", [stream([say(token("x")), Beat::Hang]), completion("chat", "x")]);
    let first = house.begin().await;
    assert_eq!(first.status(), 200);
    let told = ask(&house, CHAT, CLIENT).await;
    assert_eq!((told.status, told.header("retry-after")), (429, "1"));
    drop(first);
    assert_eq!(ask(&house, CHAT, CLIENT).await.status, 200);
    // one that gives up before there is an answer
    house.universe.on("local", [Act::Play(vec![Beat::Hang]), completion("chat", "x")]);
    let given_up = tokio::time::timeout(Duration::from_secs(1), ask(&house, CHAT, CLIENT)).await;
    assert!(given_up.is_err());
    assert_eq!(ask(&house, CHAT, CLIENT).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_were_answered_are_made_up_for() {
    let house = house(Limits { tokens_per_minute: Some(6), ..Limits::default() });
    let tokens = |n: usize| stream((0..n).map(|_| say(token("x"))).chain([say(DONE)]));
    house.universe.on("local", [tokens(3), tokens(9), good_stream("x")]);
    for _ in 0..2 {
        assert_eq!(house.ask_stream().await.status, 200);
    }
    // twelve of six, and one more for the next
    let told = house.ask_stream().await;
    assert_eq!((told.status, told.header("retry-after")), (429, "70"));
    assert_eq!(told.json()["error"]["type"], "tokens");
    tokio::time::advance(Duration::from_secs(70)).await;
    assert_eq!(house.ask_stream().await.status, 200);
}
