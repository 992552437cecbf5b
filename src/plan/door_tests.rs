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
