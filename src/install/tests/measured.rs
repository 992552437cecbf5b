use super::*;

#[tokio::test]
async fn the_diary_sets_what_was_measured_beside_what_was_planned() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096), ("tagger", 512)]).await;
    // the chat runs on as it was, and the tagger is started anew
    host.bring_in(2, &[("chat", 4096), ("tagger", 1024)]).await;
    let receipt = Receipt::read(&host.layout);
    let last = receipt.entries.last().unwrap();
    let planned = |model: &str| Foretold {
        model: model.parse().unwrap(),
        tokens_per_second: Some(TokensPerSec(2.0)),
        load_seconds: Some(1.0),
        memory: None,
    };
    assert_eq!(last.predicted, [planned("chat"), planned("tagger")]);
    let by_model = |entry: &ReceiptEntry, model: &str| {
        let found: Vec<_> = entry.measured.iter().filter(|known| known.model.as_str() == model).collect();
        assert_eq!(found.len(), 1, "{:?}", entry.measured);
        found[0].clone()
    };
    let first = &receipt.entries[0];
    assert_eq!(by_model(last, "chat"), by_model(first, "chat"), "it was not measured a second time");
    assert_eq!(by_model(last, "tagger").tokens_per_second, Some(TokensPerSec(5.0)));

    // what has gone is not told of
    host.bring_in(3, &[("tagger", 1024)]).await;
    let installed = inspect(&host.layout, &host).await.unwrap();
    let models: Vec<_> = installed.measured.iter().map(|known| known.model.as_str()).collect();
    assert_eq!(models, ["tagger"]);
    assert_eq!(installed.measured[0].tokens_per_second, Some(TokensPerSec(5.0)));
}
