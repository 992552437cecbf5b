//! What goes and what stays.

use super::*;

#[tokio::test]
async fn prune_keeps_what_is_in_force_what_is_pending_and_the_way_back() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    host.bring_in(2, &[("two", 512)]).await;
    host.bring_in(3, &[("three", 512)]).await;
    host.lay_out(4, &[("four", 512)]).await;
    host.activate(4).await;
    let arriving = host.put_blob(b"arriving");
    let request = PruneRequest { wanted: [arriving].into(), ..PruneRequest::default() };
    let dry = PruneRequest { is_dry: true, ..request.clone() };
    let shown = prune(&host.layout, LEASE, &dry).unwrap();
    let pruned = prune(&host.layout, LEASE, &request).unwrap();
    assert_eq!(shown, pruned, "what was shown was still there");
    assert_eq!(pruned.generations, [Generation::FIRST, Generation::new(2)]);
    let gone = ["one", "two"].map(|model| Digest::of(format!("weights of {model}").as_bytes()));
    assert_eq!(pruned.blobs.len(), 2);
    assert!(gone.iter().all(|blob| pruned.blobs.contains(blob) && !host.layout.blob(blob).exists()));
    assert_eq!(pruned.freed, Bytes(2 * "weights of one".len() as u64));
    assert!(pruned.programs.is_empty());
    assert_eq!(prune(&host.layout, LEASE, &request).unwrap(), Pruned::default(), "nothing is left to prune");
    host.confirm(4).await;
    let request = RollbackRequest { to: None, deadline_seconds: 3, probe: activation(1).probe };
    let back = rollback(&host.layout, LEASE, &host, &request).await.unwrap();
    assert_eq!((back.generation, back.activated), (Generation::new(3), true));
}

#[tokio::test]
async fn what_was_brought_ahead_stays_until_it_was_in_a_generation_that_goes() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    host.bring_in(2, &[("two", 512)]).await;
    host.bring_in(3, &[("three", 512)]).await;
    let pushed = host.put_blob(b"pushed");
    let request = PruneRequest { keep_unnamed: true, ..PruneRequest::default() };
    let pruned = prune(&host.layout, LEASE, &request).unwrap();
    assert_eq!(
        (pruned.generations, pruned.blobs),
        (vec![Generation::FIRST], vec![Digest::of(b"weights of one")])
    );
    assert!(host.layout.blob(&pushed).exists());
    assert_eq!(prune(&host.layout, LEASE, &PruneRequest::default()).unwrap().blobs, [pushed]);
}

#[tokio::test]
async fn prune_removes_the_prompts_of_models_that_keep_none() {
    let host = Host::new();
    let mut definition = host.definition(&[("one", 512), ("two", 512)]);
    definition.engines[0].keep_prompts = true;
    install(&host.layout, LEASE, &host, host.request(1, definition)).await.unwrap();
    host.activate(1).await;
    host.confirm(1).await;
    let kept = |model: &str| host.layout.kept_prompts(&model.parse().unwrap());
    for model in ["one", "two", "gone"] {
        fs::create_dir_all(kept(model)).unwrap();
        fs::write(kept(model).join("0.cache"), "what was said").unwrap();
    }
    prune(&host.layout, LEASE, &PruneRequest::default()).unwrap();
    assert_eq!(["one", "two", "gone"].map(|model| kept(model).exists()), [true, false, false]);
    assert!(host.layout.run_dir().exists());
}

#[tokio::test]
async fn prune_leaves_of_unfinished_uploads_what_is_wanted_or_under_way() {
    let host = Host::new();
    host.bring_in(1, &[("one", 512)]).await;
    let arriving = |name: &str| {
        let digest = Digest::of(name.as_bytes());
        let blobs = host.layout.root().join("blobs/sha256");
        fs::create_dir_all(host.layout.root().join("partial")).unwrap();
        let path = host.layout.partial(&digest);
        (digest, Arrival::of_proven_parts(path, blobs, digest, Bytes(5 << 20)).unwrap())
    };
    let (wanted, stopped) = arriving("wanted");
    stopped.write_at(0, &vec![7; 3 << 20]).unwrap();
    drop(stopped);
    let (under_way, going_on) = arriving("under way");
    let (abandoned, stopped) = arriving("abandoned");
    drop(stopped);
    let list = host.layout.partial(&abandoned).with_added_extension("chunks");
    fs::write(&list, "a list").unwrap();
    let orphan = host.layout.chunks().join(Digest::of(b"gone").to_string());
    fs::create_dir_all(host.layout.chunks()).unwrap();
    fs::write(&orphan, "the list of a blob that is gone").unwrap();

    // an apply takes nothing from who pushes
    let request = PruneRequest { keep_unnamed: true, ..PruneRequest::default() };
    prune(&host.layout, LEASE, &request).unwrap();
    let found = inspect(&host.layout, &host).await.unwrap().partials;
    assert_eq!((found[&wanted], found[&abandoned]), (Bytes(3 << 20), Bytes::ZERO));
    prune(&host.layout, LEASE, &PruneRequest { wanted: [wanted].into(), ..PruneRequest::default() }).unwrap();
    let left: Vec<Digest> = inspect(&host.layout, &host).await.unwrap().partials.into_keys().collect();
    assert!(left.len() == 2 && left.contains(&wanted) && left.contains(&under_way), "{left:?}");
    assert!(!list.exists() && !orphan.exists());
    drop(going_on);
}

#[tokio::test]
async fn what_arrives_again_of_a_generation_that_goes_is_nobodys_any_more() {
    let host = Host::new();
    for (number, model) in [(1, "one"), (2, "two"), (3, "three")] {
        host.bring_in(number, &[(model, 512)]).await;
    }
    let digest = Digest::of(b"weights of one");
    fs::create_dir_all(host.layout.root().join("partial")).unwrap();
    let (path, blobs) = (host.layout.partial(&digest), host.layout.root().join("blobs/sha256"));
    drop(Arrival::of_proven_parts(path, blobs, digest, Bytes(5 << 20)).unwrap());
    let request = PruneRequest { keep_unnamed: true, ..PruneRequest::default() };
    assert_eq!(prune(&host.layout, LEASE, &request).unwrap().generations, [Generation::FIRST]);
    assert!(inspect(&host.layout, &host).await.unwrap().partials.is_empty());
}
