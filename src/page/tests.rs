use super::*;
use crate::generation::Scope;
use crate::ids::Digest;
use base64::Engine as _;
use hyper::http::request::Parts;
use hyper::{Method, Request};
use std::time::Duration;

/// Names and values.
type Headers = &'static [(&'static str, &'static str)];

const NAMES: [&str; 2] = ["kitchen", "kitchen.home.internal"];

struct One;

impl Accounts for One {
    fn open(&self, key: &str) -> Option<(Digest, Account)> {
        (key == "good").then(|| (Digest::of(b"good"), self.account(&Digest::of(b"good")).unwrap()))
    }

    fn account(&self, key: &Digest) -> Option<Account> {
        (*key == Digest::of(b"good"))
            .then(|| Account { name: "laptop".to_owned(), scopes: vec![Scope::Infer] })
    }
}

fn head(method: &Method, host: &str, more: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri("/status").header("host", host);
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn check(method: &Method, host: &str, more: &[(&str, &str)], is_secure: bool) -> bool {
    let names = NAMES.map(str::to_owned);
    Site { names: &names, port: 8443, is_secure }.check(&head(method, host, more)).is_ok()
}

#[test]
fn a_name_that_leads_here_and_is_not_ours_is_refused() {
    for host in [
        "kitchen:8443",
        "KITCHEN.home.internal.:8443",
        "kitchen.home.internal",
        "localhost:9",
        "192.168.1.20:8443",
        "[fd00::1]:8443",
        "[::1]",
    ] {
        assert!(check(&Method::GET, host, &[], true), "{host}");
    }
    for host in
        ["evil.example:8443", "kitchen.evil.example", "xkitchen", "", "192.168.1.20.evil.example", "127.1x"]
    {
        assert!(!check(&Method::GET, host, &[], true), "{host}");
    }
}

#[test]
fn only_the_page_itself_is_listened_to() {
    const HOST: &str = "kitchen:8443";
    const OWN: (&str, &str) = ("origin", "https://kitchen:8443");
    const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");
    const NONE: (&str, &str) = ("sec-fetch-site", "none");
    const BESIDE: (&str, &str) = ("sec-fetch-site", "same-site");
    const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");
    let cases: [(&Method, Headers, bool); 14] = [
        (&Method::GET, &[], true),
        (&Method::GET, &[SAME], true),
        (&Method::GET, &[NONE], true),
        (&Method::GET, &[BESIDE], false),
        (&Method::GET, &[CROSS], false),
        (&Method::POST, &[], false),
        (&Method::POST, &[OWN], true),
        (&Method::POST, &[OWN, SAME], true),
        (&Method::POST, &[SAME], true),
        (&Method::POST, &[NONE], false),
        (&Method::POST, &[OWN, CROSS], false),
        (&Method::POST, &[("origin", "null")], false),
        (&Method::DELETE, &[("origin", "http://kitchen:8443")], false),
        (&Method::POST, &[OWN, OWN], false),
    ];
    for (method, more, is_own) in cases {
        assert_eq!(check(method, HOST, more, true), is_own, "{method} {more:?}");
    }
    // another port of this very machine is another site
    assert!(!check(&Method::POST, HOST, &[("origin", "https://kitchen:9000")], true));
    assert!(check(&Method::POST, HOST, &[("origin", "http://kitchen:8443")], false));
}

#[test]
fn a_key_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let (front, names) = (Front::default(), NAMES.map(str::to_owned));
    let now = Duration::from_secs(5);
    for (is_secure, origin, name, secure) in [
        (true, "https://kitchen:8443", "__Host-bramble-8443", "; Secure"),
        (false, "http://kitchen:8443", "bramble-8443", ""),
    ] {
        let site = Site { names: &names, port: 8443, is_secure };
        let post = [("origin", origin), ("content-type", "application/json")];
        let asked = head(&Method::POST, "kitchen:8443", &post);
        let reply = front.session(site, &asked, br#"{"key": "good"}"#, &One, now);
        assert_eq!(reply.status(), 200);
        let told: serde_json::Value = serde_json::from_slice(reply.body()).unwrap();
        assert_eq!((&told["key"], &told["scopes"][0]), (&"laptop".into(), &"infer".into()));
        let proof = told["proof"].as_str().unwrap();
        let cookie = reply.headers()["set-cookie"].to_str().unwrap();
        let (pair, rest) = cookie.split_once(';').unwrap();
        assert_eq!(rest, format!(" Path=/; Max-Age=86400; HttpOnly; SameSite=Strict{secure}"));
        let value = pair.strip_prefix(&format!("{name}=")).unwrap();
        assert_eq!((value.len(), value.contains("good")), (64, false));
        // among others, as HTTP/2 has them
        let with = [("cookie", "a=b"), ("cookie", pair), ("x-bramble-proof", proof)];
        assert_eq!(
            front.key(site, &head(&Method::GET, "kitchen:8443", &with), now).unwrap(),
            Some(Digest::of(b"good"))
        );
        let refused = front.key(site, &head(&Method::POST, "kitchen:8443", &with), now).unwrap_err();
        assert_eq!(refused.status(), 403);
        let wrong = format!("{name}={}", "0".repeat(64));
        for wrong in [
            &[("cookie", &*wrong), ("x-bramble-proof", proof)][..],
            &[("cookie", pair), ("x-bramble-proof", value)],
            // a browser sends cookies to every port of a name
            &[("cookie", pair)],
        ] {
            assert_eq!(front.key(site, &head(&Method::GET, "kitchen:8443", wrong), now).unwrap(), None);
        }
        // goodbye
        let end = head(&Method::DELETE, "kitchen:8443", &[("cookie", pair), ("origin", origin)]);
        let reply = front.session(site, &end, b"", &One, now);
        assert!(reply.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
        assert_eq!(front.key(site, &head(&Method::GET, "kitchen:8443", &with), now).unwrap(), None);
    }
}

#[test]
fn the_page_runs_nothing_but_what_stands_in_it() {
    let reply = page();
    let policy = reply.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(reply.headers()["cache-control"], "no-store");
    let html = std::str::from_utf8(reply.body()).unwrap();
    // the hashes are those of what the browser will see between the tags
    for (open, close, name) in
        [("<style>", "</style>", "style-src"), ("<script type=\"module\">", "</script>", "script-src")]
    {
        let (_, rest) = html.split_once(open).unwrap();
        let (inside, rest) = rest.split_once(close).unwrap();
        assert!(!rest.contains(open), "one of each");
        let hash =
            base64::engine::general_purpose::STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(inside));
        assert!(policy.contains(&format!("{name} 'sha256-{hash}'")), "{name}");
        assert!(!inside.contains("{style}") && !inside.contains("{script}"));
    }
    // nothing of a host or a model becomes markup, and nothing is loaded from elsewhere
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http://",
        "src=",
        " style=",
        " onclick=",
    ] {
        let found = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(word), "{word} in the page");
    }
    let kib = html.len() as f64 / 1024.0;
    println!("page.kb = {kib:.1}");
    assert!(kib <= 100.0, "{kib} KiB");
}
