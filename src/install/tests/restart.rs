//! Services that are started anew.

use super::*;
use crate::ids::ModelName;

fn request(models: &[&str]) -> RestartRequest {
    let models = models.iter().map(|model| model.parse::<ModelName>().unwrap()).collect();
    RestartRequest { models, deadline_seconds: 2, probe: activation(1).probe }
}

#[tokio::test]
async fn one_engine_or_everything_is_started_anew_and_must_answer() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 512), ("code", 1024)]).await;
    host.done.lock().unwrap().clear();
    for (models, services, probed) in [
        (&["code"][..], &["engine-code"][..], &["code"][..]),
        (&[], &["engine-chat", "engine-code", "route"], &["chat", "code"]),
    ] {
        let done = restart(&host.layout, LEASE, &host, &request(models)).await.unwrap();
        assert_eq!(done.generation, Generation::FIRST);
        let measured: Vec<&str> = done.measured.iter().map(|one| one.model.as_str()).collect();
        assert_eq!(measured, probed);
        let changes = host.done.lock().unwrap().pop().unwrap();
        let expected = Changes {
            restart: services.iter().map(|name| (*name).to_owned()).collect(),
            ..Changes::default()
        };
        assert_eq!(changes, expected);
        host.assert_whole(Some(1));
    }
}

#[tokio::test]
async fn an_engine_that_does_not_come_up_again_is_an_error_with_its_last_lines_and_stays() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 512)]).await;
    // what served has broken since
    let path = Layout::definition(&host.layout.generation(Generation::FIRST));
    let text = fs::read_to_string(&path).unwrap();
    let broken = text.replace("\"context\": 512", &format!("\"context\": {NO_ANSWER}"));
    assert_ne!(broken, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, broken).unwrap();
    let error = restart(&host.layout, LEASE, &host, &request(&["chat"])).await.unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("engine-chat ") && said.contains("the last line of engine-chat"), "{said}");
    assert_eq!(stand::current(&host.layout), Some(Generation::FIRST));
}

#[tokio::test]
async fn what_cannot_be_started_anew_is_refused_before_anything_changes() {
    let host = Host::new();
    let refused = async |models: &[&str]| {
        let error = restart(&host.layout, LEASE, &host, &request(models)).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    };
    fs::create_dir_all(host.layout.root()).unwrap();
    assert_eq!(refused(&[]).await, "no generation is in force on this host: apply first");
    host.bring_in(1, &[("chat", 512)]).await;
    host.done.lock().unwrap().clear();
    assert_eq!(
        refused(&["writer"]).await,
        "no engine on this host serves writer: `bramble status` shows what each host serves"
    );
    host.lay_out(2, &[("chat", 1024)]).await;
    host.activate(2).await;
    host.done.lock().unwrap().clear();
    assert!(refused(&[]).await.starts_with("generation 2 waits to be confirmed"));
    assert!(host.done.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_was_measured_of_an_engine_that_is_started_anew_takes_the_place_of_what_was_before() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 512), ("code", 1024)]).await;
    let mut receipt = Receipt::read(&host.layout);
    for known in &mut receipt.entries[0].measured {
        (known.tokens_per_second, known.load_seconds) = (Some(TokensPerSec(0.1)), 1e6);
    }
    fs::write(host.layout.receipt(), serde_json::to_vec(&receipt).unwrap()).unwrap();
    restart(&host.layout, LEASE, &host, &request(&["code"])).await.unwrap();
    let installed = inspect(&host.layout, &host).await.unwrap();
    let known: Vec<_> = installed
        .measured
        .iter()
        .map(|known| (known.model.as_str(), known.tokens_per_second.unwrap().0, known.load_seconds < 1e6))
        .collect();
    assert_eq!(known, [("chat", 0.1, false), ("code", 5.0, true)]);
    // it is no new entry: nothing was decided
    assert_eq!(Receipt::read(&host.layout).entries.len(), 1);
}
