//! Weights that have changed since they came.

use super::*;

/// Has a disk lose what a file held, without a trace.
fn lose(path: &Path, left: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, left).unwrap();
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn weights_that_have_changed_since_they_came_are_found_before_their_first_use() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    let definition = host.definition(&[("one", 1024), ("two", 512)]);
    let [one, two] = [0, 1].map(|at| definition.engines[at].weights.digest.unwrap());
    for digest in [one, two] {
        let mut data = fs::read(host.layout.blob(&digest)).unwrap();
        data[3] ^= 1;
        lose(&host.layout.blob(&digest), &data);
    }
    let result = install(&host.layout, LEASE, &host, host.request(2, definition.clone())).await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DamagedBlob { digest, .. } if digest == two), "{error}");
    assert_eq!(stand::numbers(&host.layout).unwrap(), [Generation::FIRST]);
    let installed = inspect(&host.layout, &host).await.unwrap();
    assert!(installed.touched.contains(&two) && !installed.holds(&two, installed.blobs[&two]));
    // what is in use was looked at before, and a disk that loses it by itself leaves the time as it is
    host.put_blob(b"weights of two");
    install(&host.layout, LEASE, &host, host.request(2, definition)).await.unwrap();
}

#[tokio::test]
async fn weights_in_use_that_somebody_has_written_to_are_drift_and_are_looked_at_again() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    let definition = host.definition(&[("one", 1024)]);
    let one = definition.engines[0].weights.digest.unwrap();
    assert_eq!(inspect(&host.layout, &host).await.unwrap().drift, Vec::<String>::new());
    let sound = fs::read(host.layout.blob(&one)).unwrap();
    fs::write(host.layout.blob(&one), vec![b'x'; sound.len()]).unwrap();
    let drift = inspect(&host.layout, &host).await.unwrap().drift;
    let said = format!("the blob {} of one may be damaged", one.short());
    assert!(drift.len() == 1 && drift[0].starts_with(&said), "{drift:?}");
    let refused = install(&host.layout, LEASE, &host, host.request(2, definition.clone())).await.unwrap_err();
    assert!(matches!(refused, Error::DamagedBlob { digest, .. } if digest == one), "{refused}");
    // the same bytes again
    fs::write(host.layout.blob(&one), sound).unwrap();
    install(&host.layout, LEASE, &host, host.request(2, definition)).await.unwrap();
    assert_eq!(inspect(&host.layout, &host).await.unwrap().drift, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_disk_has_lost_by_itself_is_found_by_hashing_and_remembered() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512), ("two", 512)]).await;
    let definition = host.definition(&[("one", 512), ("two", 512)]);
    let (one, two) =
        (definition.engines[0].weights.digest.unwrap(), definition.engines[1].weights.digest.unwrap());
    let all = |verified: &Verified| verified.models.keys().map(ToString::to_string).collect::<Vec<_>>();
    let verified = verify(&host.layout).unwrap();
    assert!(all(&verified) == ["one", "two"] && verified.damaged.is_empty(), "{verified:?}");
    lose(&host.layout.blob(&two), b"weights of tw0");
    assert_eq!(inspect(&host.layout, &host).await.unwrap().drift, Vec::<String>::new());
    fs::remove_file(host.layout.blob(&one)).unwrap();
    let verified = verify(&host.layout).unwrap();
    let damaged: Vec<_> = verified.damaged.values().copied().collect();
    assert_eq!((all(&verified).len(), damaged), (2, vec![None, Some(Digest::of(b"weights of tw0"))]));
    let drift = inspect(&host.layout, &host).await.unwrap().drift;
    assert!(
        drift[0].contains("of one is missing") && drift[1].contains("of two may be damaged"),
        "{drift:?}"
    );
    // nothing of ours is here
    assert_eq!(verify(&Layout::new(host.layout.root().join("none"))).unwrap(), Verified::default());
}

/// Seals a blob anew, as a push does: another file under its name, whose parts were proven.
fn send_again(host: &Host, digest: Digest, contents: &[u8]) {
    let (partial, blobs) = (host.layout.partial(&digest), host.layout.root().join("blobs/sha256"));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let size = Bytes(contents.len() as u64);
    let arrival = Arrival::of_proven_parts(partial, blobs, digest, size).unwrap();
    arrival.write_at(0, contents).unwrap();
    arrival.seal().unwrap();
}

#[tokio::test]
async fn engines_whose_weights_were_sent_again_are_started_anew_and_others_run_on() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512), ("two", 512)]).await;
    let definition = host.definition(&[("one", 512), ("two", 512)]);
    let one = definition.engines[0].weights.digest.unwrap();
    // the test itself puts blobs in their places
    let again = |number| install(&host.layout, LEASE, &host, host.request(number, definition.clone()));
    let drift = async || inspect(&host.layout, &host).await.unwrap().drift;
    assert_eq!(drift().await, Vec::<String>::new());
    send_again(&host, one, b"weights of one");
    assert_eq!(drift().await, ["engine-one may run weights that were sent again since it was started"]);
    again(2).await.unwrap();
    host.activate(2).await;
    host.confirm(2).await;
    let changes = host.done.lock().unwrap().last().cloned().unwrap();
    assert_eq!((changes.restart, changes.start), (vec!["engine-one".to_owned()], vec![]));
    assert_eq!(drift().await, Vec::<String>::new());
    again(3).await.unwrap();
    host.activate(3).await;
    host.confirm(3).await;
    let changes = host.done.lock().unwrap().last().cloned().unwrap();
    assert_eq!((changes.restart, changes.start), (vec![], vec![]));
    // the first has been laid out before
    let back =
        RollbackRequest { to: Some(Generation::FIRST), deadline_seconds: 3, probe: activation(1).probe };
    rollback(&host.layout, LEASE, &host, &back).await.unwrap();
    assert_eq!(drift().await, Vec::<String>::new());
}

#[tokio::test]
async fn weights_that_were_sent_again_are_hashed_whole_before_they_are_used() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    let definition = host.definition(&[("one", 512)]);
    let one = definition.engines[0].weights.digest.unwrap();
    // whoever brought it has proven its parts, and not well
    send_again(&host, one, b"weights of onE");
    let result = install(&host.layout, LEASE, &host, host.request(2, definition.clone())).await;
    assert!(matches!(result, Err(Error::DamagedBlob { digest, .. }) if digest == one), "{result:?}");
    send_again(&host, one, b"weights of one");
    let is_proven = || store::is_proven(&fs::metadata(host.layout.blob(&one)).unwrap());
    assert!(!is_proven());
    install(&host.layout, LEASE, &host, host.request(2, definition)).await.unwrap();
    assert!(is_proven());
}
