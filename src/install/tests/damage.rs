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
    let result = install(&host.layout, LEASE, &host, request_of(2, definition.clone())).await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DamagedBlob { digest, .. } if digest == two), "{error}");
    assert_eq!(stand::numbers(&host.layout).unwrap(), [Generation::FIRST]);
    let installed = inspect(&host.layout, &host).await.unwrap();
    assert!(installed.touched.contains(&two) && !installed.holds(&two, installed.blobs[&two]));
    // what is in use was looked at before, and a disk that loses it by itself leaves the time as it is
    host.put_blob(b"weights of two");
    install(&host.layout, LEASE, &host, request_of(2, definition)).await.unwrap();
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
    let refused = install(&host.layout, LEASE, &host, request_of(2, definition.clone())).await.unwrap_err();
    assert!(matches!(refused, Error::DamagedBlob { digest, .. } if digest == one), "{refused}");
    // the same bytes again
    fs::write(host.layout.blob(&one), sound).unwrap();
    install(&host.layout, LEASE, &host, request_of(2, definition)).await.unwrap();
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
