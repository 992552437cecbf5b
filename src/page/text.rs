use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use bytes::Bytes;

const HTML: &str = include_str!("../../templates/page/page.html");
const STYLE: [&str; 2] =
    [include_str!("../../templates/look.css"), include_str!("../../templates/page/page.css")];
const SCRIPT: [&str; 4] = [
    include_str!("../../templates/page/base.js"),
    include_str!("../../templates/page/fleet.js"),
    include_str!("../../templates/page/chat.js"),
    include_str!("../../templates/page/main.js"),
];

/// The page, and the one policy under which it works.
struct Text {
    html: Bytes,
    policy: HeaderValue,
}

/// Put together once: what stands in it is known by its hashes, so that nothing else in it would run.
static TEXT: LazyLock<Text> = LazyLock::new(|| {
    let (style, script) = (STYLE.concat(), SCRIPT.concat());
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    // `connect-src`: the door that it came from; `img-src`: its own icon, which stands in it
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash(&script),
        hash(&style)
    );
    let html = HTML.replace("{style}", &style).replace("{script}", &script);
    Text {
        html: html.into(),
        policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
    }
});

/// What keeps other sites from framing, opening or sniffing what comes from here.
const GUARDS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Adds to a reply what keeps other sites from framing, opening, sniffing or keeping it.
pub fn guard<B>(reply: &mut Response<B>) {
    for (name, value) in GUARDS {
        reply.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Returns the page.
pub fn page() -> Response<Bytes> {
    let mut reply = Response::new(TEXT.html.clone());
    guard(&mut reply);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(HeaderName::from_static("content-security-policy"), TEXT.policy.clone());
    reply
}
