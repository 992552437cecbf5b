use crate::plan::testing::{Fleet, name};

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
