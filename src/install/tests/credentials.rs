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

#[tokio::test]
async fn who_goes_back_keeps_the_secrets_of_today() {
    let host = Host::new();
    for (number, key) in [(1, "old"), (2, "old"), (3, "new")] {
        with_key(&host, number, key).await;
    }
    let back =
        RollbackRequest { to: Some(Generation::FIRST), deadline_seconds: 3, probe: activation(1).probe };
    assert!(rollback(&host.layout, LEASE, &host, &back).await.unwrap().activated);
    host.confirm(1).await;
    let file = Layout::secrets(&host.layout.generation(Generation::FIRST));
    let secrets: Secrets = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(secrets.peer_key.as_str(), "new");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // the door has them already
    let changes = host.done.lock().unwrap().last().cloned().unwrap();
    assert_eq!((changes.reload, changes.restart), (vec![ROUTE.to_owned()], Vec::new()));

    // what cannot be read takes nothing away
    fs::write(&file, "{").unwrap();
    let back = RollbackRequest { to: Some(Generation::new(2)), ..back };
    assert!(rollback(&host.layout, LEASE, &host, &back).await.unwrap().activated);
    assert_eq!(
        Stand::read(&host.layout, Generation::new(2)).unwrap().secrets.unwrap().peer_key.as_str(),
        "old"
    );
}
