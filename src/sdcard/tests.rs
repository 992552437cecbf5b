use super::*;

fn card() -> Card {
    Card {
        name: "kitchen".parse().unwrap(),
        user: "pi".to_owned(),
        keys: vec!["ssh-ed25519 AAAAC3Nz me@desk: \"quoted\" # and more".to_owned()],
        host_key: None,
        address: None,
        wifi: None,
        timezone: None,
    }
}

fn whole() -> Card {
    Card {
        host_key: Some(HostKey {
            private: Zeroizing::new("-----BEGIN\nabc\n-----END\n".to_owned()),
            public: "ssh-ed25519 AAAA kitchen".to_owned(),
        }),
        address: Some(Address {
            address: "192.168.1.20/24".to_owned(),
            gateway: Some("192.168.1.1".parse().unwrap()),
            dns: vec!["192.168.1.1".parse().unwrap(), "9.9.9.9".parse().unwrap()],
        }),
        wifi: Some(Wifi {
            ssid: "Ada's \"net\": 5 GHz".to_owned(),
            psk: psk("IEEE", "password").unwrap(),
            country: "DE".to_owned(),
        }),
        timezone: Some("Europe/Berlin".to_owned()),
        ..card()
    }
}

#[test]
fn a_card_gets_what_its_first_boot_reads() {
    let least = files(&card(), System::RaspberryPiOs).unwrap();
    insta::assert_snapshot!(
        "least",
        format!("{}---\n{}---\n{}", least.user_data, least.network_config, least.meta_data)
    );
    let all = files(&whole(), System::Ubuntu).unwrap();
    insta::assert_snapshot!(
        "all",
        format!("{}---\n{}---\n{}", all.user_data, all.network_config, all.meta_data)
    );
    assert_ne!(least.meta_data, all.meta_data, "another card is another instance");
}

#[test]
fn every_value_is_one_value_of_the_file_whatever_is_in_it() {
    let all = files(&whole(), System::RaspberryPiOs).unwrap();
    let read =
        |text: &str| crate::yaml::parse(&mut crate::yaml::Faults::new("it", text)).unwrap().value.to_json();
    let user_data = read(&all.user_data);
    assert_eq!(user_data["users"][0]["ssh_authorized_keys"][0], whole().keys[0].as_str());
    assert_eq!(user_data["ssh_keys"]["ed25519_private"], "-----BEGIN\nabc\n-----END\n");
    let network = read(&all.network_config);
    let points = network["wifis"]["wlan0"]["access-points"].as_object().unwrap();
    assert_eq!(points.keys().collect::<Vec<_>>(), ["Ada's \"net\": 5 GHz"]);
}

#[test]
fn a_password_becomes_what_the_standard_says() {
    // the test vectors of IEEE 802.11i, annex H.4
    let vectors = [
        ("IEEE", "password", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
        (
            "ThisIsASSID",
            "ThisIsAPassword",
            "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
        ),
    ];
    for (ssid, password, expected) in vectors {
        assert_eq!(psk(ssid, password).unwrap().as_str(), expected);
        assert_eq!(psk(ssid, expected).unwrap().as_str(), expected, "it is taken as it is");
    }
    assert_eq!(psk("", "password").unwrap_err(), Error::Ssid(String::new()));
    assert_eq!(psk("a\nb", "password").unwrap_err(), Error::Ssid("a\nb".to_owned()));
    for short in ["1234567", "pässwörd", &"x".repeat(65)] {
        assert_eq!(psk("IEEE", short).unwrap_err(), Error::Passphrase, "{short}");
    }
}

#[test]
fn what_no_system_takes_is_refused_with_what_it_takes() {
    for user in ["root", "", "Pi", "1pi", "-pi", "a b", "pi:x", &"x".repeat(33)] {
        let error = files(&Card { user: user.to_owned(), ..card() }, System::RaspberryPiOs).unwrap_err();
        assert!(error.to_string().contains("is no login"), "{error}");
    }
    let zone = |zone: &str| Card { timezone: Some(zone.to_owned()), ..card() };
    for name in ["", "/etc/passwd", "Europe/Berlin\nx: y"] {
        assert!(matches!(files(&zone(name), System::Ubuntu), Err(Error::Timezone(_))), "{name}");
    }
    let mut abroad = whole();
    abroad.wifi.as_mut().unwrap().country = "Germany".to_owned();
    assert_eq!(files(&abroad, System::Ubuntu).unwrap_err(), Error::Country("Germany".to_owned()));
}

#[test]
fn an_image_is_told_by_what_is_on_its_boot_partition() {
    let of = |names: &[&str], issue: Option<&str>| Image {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        issue: issue.map(str::to_owned),
    };
    let boot = ["config.txt", "cmdline.txt"];
    assert_eq!(image(&of(&["DCIM"], None)), Err(Error::NoBoot));
    let said = "Raspberry Pi reference 2024-07-04".to_owned();
    let old = of(&boot, Some("Raspberry Pi reference 2024-07-04\nGenerated using pi-gen"));
    assert_eq!(image(&old), Err(Error::NoCloudInit { said }));
    let with = |more: &'static str| [&boot[..], &[more]].concat();
    assert_eq!(
        image(&of(&with("meta-data"), Some("Raspberry Pi reference 2025-10-01"))),
        Ok(System::RaspberryPiOs)
    );
    assert_eq!(image(&of(&with("user-data"), None)), Ok(System::Ubuntu));
}

#[test]
fn the_memory_group_is_switched_on_once_and_the_line_stays_one() {
    let on = "console=tty1 root=PARTUUID=1-02 rootwait cgroup_enable=memory\n";
    assert_eq!(cmdline("console=tty1 root=PARTUUID=1-02 rootwait\n").as_deref(), Some(on));
    assert_eq!(cmdline(on), None);
    assert_eq!(cmdline("").as_deref(), Some("cgroup_enable=memory\n"));
}
