use crate::plan::testing::{Fleet, MANIFEST, name};

#[test]
fn who_may_continue_an_answer_is_said_in_the_words_of_each_door() {
    let heirs = |route: &str| {
        let plan = Fleet::with("{ order: [local, desk] }", route).plan();
        ["attic", "desk"].map(|host| {
            let door = &plan.host(&name(host)).unwrap().definition.door;
            door.routes[0].continue_on.as_ref().map(|names| names.join(" "))
        })
    };
    let words = |attic: &str, desk: &str| [Some(attic.to_owned()), Some(desk.to_owned())];
    assert_eq!(heirs("{ order: [local, desk] }"), [None, None]);
    assert_eq!(heirs("{ order: [local, desk], continue_on: [] }"), words("", ""));
    assert_eq!(heirs("{ order: [local, desk], continue_on: [desk] }"), words("desk", "local"));
    assert_eq!(heirs("{ order: [local, desk], continue_on: [local, desk] }"), words("local desk", "local"));
}

#[test]
fn a_machine_that_sleeps_is_woken_by_the_doors_of_others_and_not_by_its_own() {
    let desk = "desk: { address: 10.0.0.1, connect: local, role: desktop";
    let wake = format!("{desk}, wake: {{ mac: \"aa:bb:cc:dd:ee:ff\", wait_seconds: 90 }}");
    let plan = Fleet::with(desk, &wake).plan();
    let wakes = |host: &str| {
        let door = &plan.host(&name(host)).unwrap().definition.door;
        let wakes =
            door.upstreams.iter().filter_map(|upstream| Some((upstream.name.as_str(), upstream.wake?)));
        wakes.map(|(name, wake)| format!("{name} {} {}", wake.mac, wake.wait_seconds)).collect::<Vec<_>>()
    };
    assert_eq!(wakes("attic"), ["desk aa:bb:cc:dd:ee:ff 90"]);
    assert_eq!(wakes("desk"), Vec::<String>::new());
}

#[test]
fn limits_and_who_is_a_desktop_reach_the_doors_with_what_servers_cannot_do() {
    let gaming = "  gaming: { upstream: http://g.local/v1, models: { chat: mistral }, lacks: [tools] }\n";
    let text = MANIFEST.replace("deploy:\n", &format!("{gaming}deploy:\n")).replace(
        "{ order: [local, desk] }",
        "{ order: [local, desk, gaming], overflow: { wait_seconds: 30, prompt_tokens: 2000 } }",
    );
    let plan = Fleet::of(&text).plan();
    let routes = |host: &str| plan.host(&name(host)).unwrap().definition.door.routes.clone();
    let route = &routes("attic")[0];
    assert_eq!((route.overflow_wait_seconds, route.overflow_prompt_tokens), (Some(30), Some(2000)));
    let hops = |host: &str| {
        let route = &routes(host)[0];
        let hops = route.order.iter().map(|hop| (hop.upstream.clone(), hop.is_desktop, hop.lacks.len()));
        hops.collect::<Vec<_>>()
    };
    let hop = |name: &str, is_desktop, lacks| (name.to_owned(), is_desktop, lacks);
    assert_eq!(hops("attic"), [hop("local", false, 0), hop("desk", true, 0), hop("gaming", true, 1)]);
    assert_eq!(hops("desk"), [hop("local", true, 0), hop("gaming", true, 1)]);
}
