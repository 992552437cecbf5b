//! `bramble sdcard` as a process, onto a folder that looks like a card's boot partition: the files that a first boot
//! reads.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fs;

#[path = "support/desk.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod desk;

use desk::Desk;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ ada@desk";

/// The password of the Wi-Fi, and what WPA2 makes of it and of the network's name (PBKDF2-HMAC-SHA1, 4096 rounds).
const PASSWORD: &str = "a long password";
const PSK: &str = "bb04015feb3b367586edccedd95f0b862550d1003206fda3032b0a30b2727c59";

/// An operator's folder with a card in it.
fn desk() -> Desk {
    let desk = Desk::new("");
    fs::create_dir(desk.path("bootfs")).unwrap();
    for (name, text) in [
        ("bootfs/issue.txt", "Raspberry Pi reference 2025-10-01\n"),
        ("bootfs/config.txt", "arm_64bit=1\n"),
        ("bootfs/cmdline.txt", "console=tty1 root=PARTUUID=00000000-02 rootwait\n"),
        ("bootfs/user-data", "#cloud-config\n"),
        ("bootfs/meta-data", "instance_id: rpios-image\n"),
        ("ada.pub", KEY),
        ("wifi.txt", PASSWORD),
    ] {
        fs::write(desk.path(name), text).unwrap();
    }
    desk
}

/// Writes the card with Ada's key, and returns what is said, its `user-data` and its `network-config`.
#[track_caller]
fn written(desk: &Desk, arguments: &[&str]) -> (String, String, String) {
    let mut command = desk.command(arguments);
    let output = command
        .args(["--key", "ada.pub"])
        .env("BRAMBLE_KNOWN_HOSTS", desk.path("known_hosts"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    let read = |name: &str| fs::read_to_string(desk.path("bootfs").join(name)).unwrap();
    (said, read("user-data"), read("network-config"))
}

#[test]
fn a_card_has_its_name_its_login_and_a_key_that_is_known_before_it_boots() {
    let desk = desk();
    let (said, user, network) = written(&desk, &["sdcard", "bootfs", "--name", "kitchen"]);
    assert!(
        said.contains("  network   cable\n") && said.contains("bramble doctor pi@kitchen.local\n"),
        "{said}"
    );
    for line in
        ["hostname: \"kitchen\"", "  - name: \"pi\"", "ssh_pwauth: false", &format!("      - \"{KEY}\"")]
    {
        assert!(user.lines().any(|found| found == line), "{line}: {user}");
    }
    assert!(!user.contains("timezone"), "{user}");
    assert!(network.contains("  eth0:\n    dhcp4: true\n") && !network.contains("wlan0"), "{network}");
    // the public half of the key that the card has
    let known = fs::read_to_string(desk.path("known_hosts")).unwrap();
    let key = known.split(' ').nth(2).unwrap().trim();
    assert!(known.starts_with("kitchen.local,kitchen ssh-ed25519 ") && user.contains(key), "{known}");
    let boot = fs::read_to_string(desk.path("bootfs/cmdline.txt")).unwrap();
    assert!(boot.ends_with("rootwait cgroup_enable=memory\n"), "{boot}");
}

#[test]
fn a_card_for_the_wifi_has_its_name_its_country_and_no_password_that_can_be_read() {
    let desk = desk();
    let (said, user, network) = written(
        &desk,
        &[
            "sdcard",
            "bootfs",
            "--name",
            "shed",
            "--wifi",
            "Our Wi-Fi",
            "--country",
            "DE",
            "--wifi-password-file",
            "wifi.txt",
        ],
    );
    assert!(said.contains("  network   Wi-Fi Our Wi-Fi, and cable\n"), "{said}");
    assert!(user.contains("hostname: \"shed\"\n"), "{user}");
    let wifi = "  wlan0:\n    dhcp4: true\n    optional: true # a boot does not wait for it\n    \
                regulatory-domain: \"DE\"\n    access-points:\n      \"Our Wi-Fi\":\n        password: \"PSK\"\n";
    assert!(network.ends_with(&wifi.replace("PSK", PSK)), "{network}");
    assert!(![network, user].concat().contains(PASSWORD));
}

#[test]
fn a_card_with_an_address_has_its_gateway_its_name_servers_and_its_time_zone() {
    let desk = desk();
    let (said, user, network) = written(
        &desk,
        &[
            "sdcard",
            "bootfs",
            "--name",
            "robot",
            "--address",
            "10.0.0.5/24",
            "--gateway",
            "10.0.0.1",
            "--dns",
            "10.0.0.1",
            "--timezone",
            "Europe/Berlin",
        ],
    );
    assert!(said.contains("  network   cable, 10.0.0.5/24\n"), "{said}");
    assert!(user.contains("timezone: \"Europe/Berlin\"\n"), "{user}");
    let wired = "  eth0:\n    dhcp4: false\n    addresses: [\"10.0.0.5/24\"]\n    \
                 routes: [{ to: default, via: \"10.0.0.1\" }]\n    \
                 nameservers: { addresses: [\"10.0.0.1\"] }\n";
    assert!(network.contains(wired), "{network}");
    let known = fs::read_to_string(desk.path("known_hosts")).unwrap();
    assert!(known.starts_with("robot.local,robot,10.0.0.5 ssh-ed25519 "), "{known}");
}
