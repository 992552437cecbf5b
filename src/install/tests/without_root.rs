//! Hosts whose login cannot become root.

use super::*;

impl Host {
    /// A host whose login cannot become root.
    fn of_user() -> Self {
        Self { supervision: Supervision::SystemdUser { version: 252 }, ..Self::new() }
    }
}

#[tokio::test]
async fn lingering_that_was_switched_on_is_switched_off_again_and_no_other() {
    for before in [Lingering::Allowed, Lingering::On] {
        let lingering = lingering(before);
        let host = Host { lingering: Arc::clone(&lingering), ..Host::of_user() };
        host.bring_in(1, &[("chat", 4096)]).await;
        host.bring_in(2, &[("chat", 8192)]).await;
        assert_eq!(*lingering.lock().unwrap(), Lingering::On);
        let layout = host.layout.clone();
        let supervisors: [Box<dyn Supervisor>; 1] = [Box::new(host)];
        let request = RemoveRequest { fleet: "home".parse().unwrap(), adopt: false };
        remove(&layout, LEASE, &supervisors, &request).await.unwrap();
        assert_eq!(*lingering.lock().unwrap(), before);
    }
}

#[tokio::test]
async fn services_that_would_end_with_the_login_are_not_laid_out() {
    let host = Host { lingering: lingering(Lingering::Off), ..Host::of_user() };
    let request = host.request(1, host.definition(&[("chat", 4096)]));
    let error = install(&host.layout, LEASE, &host, request).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        (
            "the services of pi would end when it logs out (Access denied): let an administrator run `sudo loginctl enable-linger pi` on this host",
            3
        )
    );
    assert_eq!(stand::numbers(&host.layout).unwrap(), []);
}

#[tokio::test]
async fn units_of_a_login_do_not_follow_those_of_root() {
    let mut host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    host.supervision = Supervision::SystemdUser { version: 252 };
    host.lay_out(2, &[("chat", 4096)]).await;
    let error = activate(&host.layout, LEASE, &host, &activation(2)).await.unwrap_err();
    assert!(matches!(error, Error::SupervisionChanged(_)), "{error}");
}

#[tokio::test]
async fn the_guard_of_a_login_speaks_to_its_own_systemd() {
    let host = Host::of_user();
    host.bring_in(1, &[("chat", 4096)]).await;
    host.lay_out(2, &[("chat", 8192)]).await;
    assert!(host.activate(2).await.activated);
    let said = host.run_guard("", "");
    let calls: Vec<&str> = said.lines().filter(|line| line.starts_with("systemctl")).collect();
    assert!(!calls.is_empty() && calls.iter().all(|call| call.starts_with("systemctl --user ")), "{said}");
    host.assert_whole(Some(1));
}
