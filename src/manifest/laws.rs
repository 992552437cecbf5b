//! What holds for every text: no panic, exact marks, and a schema that says what the parser does.

use proptest::prelude::*;

use super::tests::{GOOD, repository_file, samples};
use super::*;
use crate::yaml::Value;

fn json_of(text: &str) -> Option<serde_json::Value> {
    yaml::parse(&mut Faults::new("", text)).map(|node| node.value.to_json())
}

/// Whether the parts have the right form, whatever they mean together.
fn is_well_formed(text: &str) -> bool {
    let mut faults = Faults::new("", text);
    let node = yaml::parse(&mut faults);
    let fleet = node.and_then(|node| written::Root::read(&node, &mut faults));
    fleet.is_some() && faults.is_empty()
}

#[test]
fn every_sample_fits_the_schema() {
    let validator = jsonschema::validator_for(&json_schema()).expect("a schema");
    for (name, text) in samples() {
        let json = json_of(&text).expect("YAML");
        let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_schema_describes_every_key_to_an_editor() {
    let schema = json_schema();
    assert_eq!(schema["title"], "Bramble manifest");
    for (name, record) in schema["$defs"].as_object().expect("definitions") {
        for (key, property) in record["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 5), "{name}.{key}");
        }
    }
    assert_eq!(schema["$defs"]["Serve"]["properties"]["port"]["default"], 8443);
    assert_eq!(schema["$defs"]["Model"]["properties"]["quant"]["default"], "auto");
}

/// Every scalar, key and place of a tree can be changed: picks the `n`-th and writes YAML (as JSON) again.
fn mutated(value: &serde_json::Value, pick: &mut usize, with: &Mutation) -> serde_json::Value {
    use serde_json::Value as Json;
    let is_here = *pick == 0;
    *pick = pick.wrapping_sub(1);
    if is_here {
        match (with, value) {
            (Mutation::Replace(new), _) => return new.clone(),
            (Mutation::AddKey(key, new), Json::Object(map)) => {
                let mut map = map.clone();
                map.insert(key.clone(), new.clone());
                return Json::Object(map);
            }
            (Mutation::DropKey(n), Json::Object(map)) if !map.is_empty() => {
                let mut map = map.clone();
                let key = map.keys().nth(n % map.len()).cloned().unwrap_or_default();
                map.shift_remove(&key);
                return Json::Object(map);
            }
            _ => {}
        }
    }
    match value {
        Json::Array(items) => items.iter().map(|item| mutated(item, pick, with)).collect(),
        Json::Object(map) => map.iter().map(|(key, item)| (key.clone(), mutated(item, pick, with))).collect(),
        other => other.clone(),
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    Replace(serde_json::Value),
    AddKey(String, serde_json::Value),
    DropKey(usize),
}

fn some_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    let words = [
        "auto",
        "off",
        "fleet",
        "pi",
        "desktop",
        "local",
        "Q4_0",
        "q4_0",
        "kitchen",
        "A b",
        "",
        "-x",
        "hf:a/b",
        "http://a/v1",
        "http://a",
        "/a/b",
        "/a",
        "/a/../b",
        "/.a/b",
        "env:X",
        "X",
        "local-first",
        "aa:bb:cc:dd:ee:ff",
        "pi5-8gb",
        "3.5 GiB",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(|word| json!(word)),
        prop::sample::select(vec![-1, 0, 1, 2, 8, 22, 1024, 65535, 65536]).prop_map(|number| json!(number)),
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!(0.5),
            json!([]),
            json!({}),
            json!(["kitchen"]),
            json!(["Q4_0", "Q4_0"]),
            json!(["Q8_0"]),
            json!({ "role": "pi" }),
            json!({ "count": 1, "where": {} }),
            json!({ "user": "pi" }),
            json!({ "base": "hf:a/b", "delta": "hf:a/b" }),
        ]),
    ]
}

fn some_mutation() -> impl Strategy<Value = Mutation> {
    let keys = [
        "source",
        "quant",
        "prefer",
        "context",
        "slots",
        "keep_prompts",
        "floor",
        "accept_license",
        "requantize",
        "imatrix",
        "address",
        "ssh",
        "connect",
        "board",
        "memory",
        "bandwidth",
        "role",
        "labels",
        "dir",
        "gpu",
        "wake",
        "upstream",
        "key",
        "models",
        "on",
        "model",
        "order",
        "mode",
        "from",
        "overflow",
        "continue_on",
        "wait_seconds",
        "prompt_tokens",
        "lacks",
        "port",
        "tls",
        "count",
        "where",
        "nonsense",
        "defaults",
        "rollout",
        "per_host",
        "total",
        "Bad Name",
    ];
    prop_oneof![
        some_json().prop_map(Mutation::Replace),
        (prop::sample::select(keys.to_vec()), some_json())
            .prop_map(|(key, json)| Mutation::AddKey(key.to_owned(), json)),
        (0usize..12).prop_map(Mutation::DropKey),
    ]
}

fn count_values(value: &serde_json::Value) -> usize {
    use serde_json::Value as Json;
    1 + match value {
        Json::Array(items) => items.iter().map(count_values).sum(),
        Json::Object(map) => map.values().map(count_values).sum::<usize>(),
        _ => 0,
    }
}

/// A manifest of some hosts that all have their models, written in one of several styles.
fn some_manifest() -> impl Strategy<Value = String> {
    let host = (
        "[a-z][a-z0-9-]{1,12}",
        any::<bool>(),
        prop::option::of(1u16..),
        prop::option::of("/srv/[a-z]{1,20}"),
    );
    let hosts = prop::collection::vec(host, 1..6);
    let model = ("[a-z][a-z0-9-]{0,12}", prop::option::of(0usize..19), prop::option::of(32u32..100_000));
    (hosts, prop::collection::vec(model, 1..4), 1024u16.., any::<bool>()).prop_map(|(hosts, models, port, is_json)| {
        use serde_json::{Map, json};
        let (mut all_hosts, mut all_models) = (Map::new(), Map::new());
        let mut names = Vec::new();
        for (n, (name, is_desktop, port, dir)) in hosts.into_iter().enumerate() {
            let name = format!("{name}{n}");
            let mut host = json!({ "address": format!("10.0.0.{n}"), "role": if is_desktop { "desktop" } else { "pi" } });
            if let Some(port) = port { host["ssh"] = json!({ "port": port }); }
            if let Some(dir) = dir { host["dir"] = json!(dir); }
            all_hosts.insert(name.clone(), host);
            names.push(name);
        }
        let mut deploy = Vec::new();
        let mut routes = Map::new();
        for (n, (name, quant, context)) in models.into_iter().enumerate() {
            let name = format!("{name}{n}");
            let mut model = json!({ "source": "hf:org/repo" });
            model["quant"] = json!(quant.map_or("auto", |n| crate::quant::Quant::ALL[n].name()));
            if let Some(context) = context { model["context"] = json!(context); }
            all_models.insert(name.clone(), model);
            deploy.push(json!({ "model": name, "on": names }));
            let order: Vec<&str> = ["local"].into_iter().chain(names.iter().map(String::as_str)).collect();
            routes.insert(name, json!({ "order": order }));
        }
        let fleet = json!({
            "bramble": 1, "fleet": "home", "serve": { "port": port }, "models": all_models,
            "hosts": all_hosts, "deploy": deploy, "routes": routes
        });
        if is_json { fleet.to_string() } else { block(&fleet, 0) }
    })
}

/// Writes JSON as YAML in block style.
fn block(value: &serde_json::Value, indent: usize) -> String {
    use serde_json::Value as Json;
    let pad = " ".repeat(indent);
    let nested = |value: &Json| match value {
        Json::Array(_) | Json::Object(_) => format!("\n{}", block(value, indent + 2)),
        other => format!(" {other}\n"),
    };
    match value {
        Json::Object(map) => {
            let lines: Vec<String> =
                map.iter().map(|(key, value)| format!("{pad}{key}:{}", nested(value))).collect();
            lines.concat()
        }
        Json::Array(items) => {
            let lines: Vec<String> = items.iter().map(|value| format!("{pad}-{}", nested(value))).collect();
            lines.concat()
        }
        other => format!("{pad}{other}\n"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = parse("f.yaml", &text);
    }

    #[test]
    fn no_text_that_looks_like_yaml_makes_the_parser_panic(text in "([a-z]{1,3}|[:{}\\[\\],'\"#&*!|>%@`?~-]|: |- |\n|\n  |\t|\r|\u{feff}|é|---|\\.\\.\\.|0x|1e|\\\\){0,60}") {
        if let Err(problems) = parse("f.yaml", &text) {
            prop_assert!(problems.count > 0);
            for at in &problems.problems {
                prop_assert!(at.line >= 1 && at.column >= 1 && at.excerpt_length >= 1);
                prop_assert!(at.span.start <= at.span.end && at.span.end <= text.len());
            }
            prop_assert!(!problems.render(true).is_empty());
        }
    }

    #[test]
    fn a_broken_manifest_still_gives_places(cut in 0usize..GOOD.len(), with in "[\\PC\n\t]{0,3}") {
        let text = format!("{}{with}{}", &GOOD[..cut], &GOOD[(cut + 1).min(GOOD.len())..]);
        if let Err(problems) = parse("f.yaml", &text) {
            prop_assert!(problems.problems.iter().all(|at| at.line <= text.lines().count().max(1) + 1));
        }
    }

    #[test]
    fn manifests_without_faults_are_read(text in some_manifest()) {
        let manifest = parse("f.yaml", &text);
        prop_assert!(manifest.is_ok(), "{}\n{}", manifest.unwrap_err(), text);
    }

    #[test]
    fn the_marks_of_keys_and_texts_are_exact(text in some_manifest()) {
        fn walk(node: &yaml::Node, text: &str) {
            let slice = &text[node.span.start..node.span.end];
            match &node.value {
                Value::Text(value) => assert_eq!(slice.trim_matches('"'), value),
                Value::Int(value) => assert_eq!(slice, value.to_string()),
                Value::List(items) => items.iter().for_each(|item| walk(item, text)),
                Value::Map(entries) => for (key, value) in entries {
                    assert_eq!(text[key.span.start..key.span.end].trim_matches('"'), key.text);
                    walk(value, text);
                },
                _ => {}
            }
        }
        walk(&yaml::parse(&mut Faults::new("", &text)).expect("YAML"), &text);
    }

    #[test]
    fn the_schema_takes_what_the_parser_takes(pick in any::<prop::sample::Index>(), with in some_mutation()) {
        thread_local! {
            static CHECKED: (jsonschema::Validator, serde_json::Value) = (
                jsonschema::validator_for(&json_schema()).expect("a schema"),
                json_of(&repository_file("manifests/full.yaml")).expect("YAML"),
            );
        }
        CHECKED.with(|(validator, full)| {
            let mut pick = pick.index(count_values(full));
            let json = mutated(full, &mut pick, &with);
            let text = json.to_string();
            prop_assert_eq!(validator.is_valid(&json), is_well_formed(&text), "{}", text);
            Ok(())
        })?;
    }
}

/// Texts of about `size` bytes, each hostile in its own way.
fn hostile(size: usize) -> Vec<(&'static str, String)> {
    let fill = |part: &str| part.repeat(size / part.len());
    vec![
        ("one long key", format!("{GOOD}{}: 1\n", fill("x"))),
        ("one long line of keys", format!("{{{}}}", fill("a:,"))),
        ("equal keys", fill("a: 1\n")),
        ("open quotes", format!("a: \"{}", fill("\\\""))),
        ("lists", fill("- ")),
        ("entries", format!("[{}]", fill("[],"))),
        ("comments", fill("#\n")),
        ("anchors", format!("[{}]", fill("&a b,"))),
        ("empty lines", fill("\n")),
        ("questions", fill("? ")),
        ("tabs", fill("\t")),
        ("equal keys at the end", format!("{}{}", "#\n".repeat(size / 4), "a: 1\n".repeat(size / 10))),
        ("hosts", format!("{GOOD}{}", fill("  x: {}\n"))),
        ("unknown hosts", GOOD.replace("on: [desk]", &format!("on: [{}desk]", fill("dask, ")))),
        ("labels", GOOD.replace("{ role: pi }", &format!("{{ labels: [{}a] }}", fill("b,")))),
    ]
}

#[test]
fn hostile_texts_are_refused_with_few_words() {
    for (name, text) in hostile(yaml::MAX_BYTES / 16) {
        let problems = parse("f.yaml", &text).expect_err(name);
        assert!(problems.render(true).len() < 200_000, "{name}");
    }
}
