use super::*;
use crate::unit::ROUTE;

/// Installs and activates generation `number` with another key for peers; returns what that did to services.
async fn with_key(host: &Host, number: u64, key: &str) -> Changes {
    let mut request = host.request(number, host.definition(&[("chat", 4096)]));
    request.secrets.peer_key = key.to_owned().into();
    install(&host.layout, LEASE, host, request).await.unwrap();
    assert!(host.activate(number).await.activated);
    host.confirm(number).await;
    host.done.lock().unwrap().last().cloned().unwrap()
}

#[tokio::test]
async fn a_door_that_is_given_its_secrets_starts_anew_for_other_ones_only() {
    let host = Host::new();
    let door = vec![ROUTE.to_owned()];
    with_key(&host, 1, "old").await;
    let same = with_key(&host, 2, "old").await;
    assert_eq!((&same.reload, &same.restart), (&door, &Vec::new()));
    let other = with_key(&host, 3, "new").await;
    assert_eq!((&other.reload, &other.restart), (&Vec::new(), &door));
}

#[tokio::test]
async fn a_door_that_reads_its_secrets_itself_reads_other_ones_and_runs_on() {
    let host = Host { supervision: Supervision::SystemdUser { version: 252 }, ..Host::new() };
    let door = vec![ROUTE.to_owned()];
    with_key(&host, 1, "old").await;
    let other = with_key(&host, 2, "new").await;
    assert_eq!((&other.reload, &other.restart), (&door, &Vec::new()));
}

#[tokio::test]
async fn a_door_that_shall_listen_on_another_port_starts_anew() {
    let host = Host { supervision: Supervision::SystemdUser { version: 252 }, ..Host::new() };
    host.bring_in(1, &[("chat", 4096)]).await;
    let mut definition = host.definition(&[("chat", 4096)]);
    definition.door.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    install(&host.layout, LEASE, &host, host.request(2, definition)).await.unwrap();
    assert!(host.activate(2).await.activated);
    host.confirm(2).await;
    let changes = host.done.lock().unwrap().last().cloned().unwrap();
    assert_eq!((changes.reload, changes.restart), (Vec::new(), vec![ROUTE.to_owned()]));
}
