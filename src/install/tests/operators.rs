//! Several operators, and fleets, at one host.

use super::*;

/// Whoever slept while somebody else began and ended has the lease, and a plan of before.
#[tokio::test]
async fn what_was_decided_before_somebody_else_changed_the_host_is_refused() {
    let host = Host::new();
    let first = host.request(1, host.definition(&[("chat", 4096)]));
    host.bring_in(1, &[("chat", 4096)]).await;
    let late = host.request(2, host.definition(&[("chat", 512)]));
    host.bring_in(2, &[("chat", 2048)]).await;
    host.bring_in(3, &[("chat", 1024)]).await;
    for (asleep, planned) in [(first, None), (late, Some(1))] {
        let refused = install(&host.layout, LEASE, &host, asleep).await.unwrap_err();
        let told = Error::Moved { planned: planned.map(Generation::new), found: Some(Generation::new(3)) };
        assert_eq!(refused.to_string(), told.to_string());
        assert_eq!(refused.exit_code(), 4);
    }
    // the way back is as it was
    let earlier = Stand::read(&host.layout, Generation::new(2)).unwrap();
    assert_eq!(earlier.definition.engines[0].context, 2048);
    host.assert_whole(Some(3));
}

#[tokio::test]
async fn what_the_host_itself_has_taken_back_since_is_no_change_by_somebody_else() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    host.lay_out(2, &[("chat", 512)]).await;
    activate_with(&host.layout, &host, &activation(2), &|_| Ok(())).await.unwrap();
    let planned = host.request(3, host.definition(&[("chat", 1024)]));
    assert_eq!(planned.from, Some(Generation::new(2)));
    host.cut_power().await;
    host.run_guard("", "");
    host.assert_whole(Some(1));
    install(&host.layout, LEASE, &host, planned.clone()).await.unwrap();
    host.bring_in(4, &[("chat", 2048)]).await;
    assert!(matches!(install(&host.layout, LEASE, &host, planned).await, Err(Error::Moved { .. })));
}

#[tokio::test]
async fn a_program_that_was_lost_and_has_come_again_is_no_change_by_somebody_else() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    let planned = host.request(2, host.definition(&[("chat", 512)]));
    assert_eq!(planned.from, Some(Generation::FIRST));
    // the push has brought the same one
    fs::remove_dir_all(host.layout.root().join("programs")).unwrap();
    host.definition(&[]);
    assert!(host.layout.current().join("program/brambled").exists());
    install(&host.layout, LEASE, &host, planned).await.unwrap();
}

#[tokio::test]
async fn a_host_of_another_fleet_is_refused_unless_adopted() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    let theirs = Definition { fleet: "other".parse().unwrap(), ..host.definition(&[("chat", 4096)]) };
    let request = host.request(2, theirs);
    let refused = install(&host.layout, LEASE, &host, request.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::OtherFleet { .. }) && refused.exit_code() == 3);
    install(&host.layout, LEASE, &host, InstallRequest { adopt: true, ..request }).await.unwrap();
    let back = install(&host.layout, LEASE, &host, host.request(3, host.definition(&[]))).await;
    assert!(matches!(back, Err(Error::OtherFleet { .. })));
}

#[tokio::test]
async fn two_verbs_at_once_are_one_too_many() {
    let host = Host::new();
    host.lay_out(1, &[("chat", 4096)]).await;
    let lock = lock::Lock::take(&host.layout, LEASE, "activate").unwrap();
    let busy = activate(&host.layout, LEASE, &host, &activation(1)).await.unwrap_err();
    assert_eq!(busy.exit_code(), 4);
    assert!(busy.is_transient() && busy.to_string().contains("`activate` (process "), "{busy}");
    drop(lock);
    assert!(host.activate(1).await.activated);
}

#[tokio::test]
async fn an_operator_that_was_asleep_cannot_write_over_its_successor() {
    let host = Host::new();
    let take = |in_place_of| {
        let holder = Holder { operator: "bob@desk".to_owned(), boot: "b".to_owned(), process: 1 };
        lease::answer(&host.layout, Ask::Take { holder, in_place_of }).unwrap()
    };
    host.bring_in(1, &[("chat", 4096)]).await;
    assert_eq!(take(None), Some(Granted { number: 1 }));
    install(&host.layout, 1, &host, host.request(2, host.definition(&[("chat", 2048)]))).await.unwrap();
    assert!(activate(&host.layout, 1, &host, &activation(2)).await.unwrap().activated);
    // it falls asleep here, and another one takes over
    assert_eq!(take(Some(1)), Some(Granted { number: 2 }));
    let before = tree(host.layout.root());
    let probe = activation(1).probe;
    let back = RollbackRequest { to: None, deadline_seconds: 120, probe };
    let fleet = "home".parse().unwrap();
    let refused = [
        install(&host.layout, 1, &host, host.request(3, host.definition(&[("chat", 1024)]))).await.err(),
        activate(&host.layout, 1, &host, &activation(1)).await.err(),
        confirm(&host.layout, 1, &host, confirmation(2)).await.err(),
        rollback(&host.layout, 1, &host, &back).await.err(),
        cordon(&host.layout, 1, &host, &CordonRequest { cordon: None }).await.err(),
        prune(&host.layout, 1, &PruneRequest::default()).err(),
        remove(&host.layout, 1, &[], &RemoveRequest { fleet, adopt: false }).await.err(),
    ];
    for error in refused {
        let error = error.expect("refused");
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().starts_with("bob@desk has taken this host over"), "{error}");
    }
    assert_eq!(tree(host.layout.root()), before);
    confirm(&host.layout, 2, &host, confirmation(2)).await.unwrap();
}

/// Lists what is under a folder, with the contents of its files; who held the lock last does not count.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path));
        } else if !path.ends_with("lock") {
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}
