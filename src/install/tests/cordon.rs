//! A host that is to take no new work.

use super::*;
use crate::facts::Cordon;

fn request(by: Option<&str>) -> CordonRequest {
    CordonRequest { cordon: by.map(|by| Cordon { by: by.to_owned(), at: "2026-11-23T12:00:00Z".to_owned() }) }
}

async fn put(host: &Host, by: Option<&str>) -> Cordoned {
    cordon(&host.layout, LEASE, host, &request(by)).await.unwrap()
}

#[tokio::test]
async fn a_cordon_tells_the_door_alone_and_stays_until_it_is_taken_away() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 512)]).await;
    let by = async || inspect(&host.layout, &host).await.unwrap().cordon.map(|cordon| cordon.by);
    assert_eq!(by().await, None);
    host.done.lock().unwrap().clear();
    let told = Changes { reload: vec!["route".to_owned()], ..Changes::default() };

    let done = put(&host, Some("ada@desk")).await;
    assert_eq!(done, Cordoned { generation: Generation::FIRST, was_so: false });
    assert_eq!(std::mem::take(&mut *host.done.lock().unwrap()), std::slice::from_ref(&told));
    assert_eq!(by().await.as_deref(), Some("ada@desk"));
    host.assert_whole(Some(1));

    // who was first stays named, and the door is told again
    assert!(put(&host, Some("eve@shed")).await.was_so);
    assert_eq!(std::mem::take(&mut *host.done.lock().unwrap()), std::slice::from_ref(&told));
    assert_eq!(by().await.as_deref(), Some("ada@desk"));

    // an update does not end it, and neither does a boot or what is pruned
    host.bring_in(2, &[("chat", 1024)]).await;
    host.cut_power().await;
    prune(&host.layout, LEASE, &PruneRequest::default()).unwrap();
    assert_eq!(by().await.as_deref(), Some("ada@desk"));

    // without a door that runs there is nobody to tell
    host.done.lock().unwrap().clear();
    assert!(!put(&host, None).await.was_so);
    assert_eq!((by().await, host.done.lock().unwrap().len()), (None, 0));
    assert!(put(&host, None).await.was_so);
}

#[tokio::test]
async fn a_host_without_a_generation_has_nobody_to_tell() {
    let host = Host::new();
    fs::create_dir_all(host.layout.root()).unwrap();
    let refused = cordon(&host.layout, LEASE, &host, &request(Some("ada"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "no generation is in force on this host: apply first");
    assert!(!host.layout.cordon().exists());
}
