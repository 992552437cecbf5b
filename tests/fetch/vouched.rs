//! A hub over https, whose certificate somebody vouches for, or nobody.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::bench::Bench;

/// An authority that a machine may trust.
struct Authority(CertificateParams, KeyPair);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(params, KeyPair::generate().unwrap())
    }

    fn pem(&self) -> String {
        self.0.self_signed(&self.1).unwrap().pem()
    }

    /// Returns what a server needs that is called `name` from one year to the other.
    fn server(&self, name: &str, (from, until): (i32, i32)) -> ServerConfig {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &Issuer::from_params(&self.0, &self.1)).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        config.with_no_client_auth().with_single_cert(vec![signed.der().clone()], key).unwrap()
    }
}

/// Serves the double of the hub over TLS, too. Returns its port.
async fn front(bench: &Bench, config: ServerConfig) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let hub = bench.hub.endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // who does not trust it says nothing more
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let hub = hub.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(hub).await.unwrap();
                drop(copy_bidirectional(&mut stream, &mut there).await);
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_gets_a_token_only_with_the_certificate_of_its_name_and_of_today() {
    let bench = Bench::new().await;
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    fs::write(bench.path("roots.pem"), trusted.pem()).unwrap();
    let years = (2020, 2090);
    for (what, config, why) in [
        ("as it should be", trusted.server("localhost", years), None),
        ("of another authority", other.server("localhost", years), Some("UnknownIssuer")),
        ("of another name", trusted.server("hub.test", years), Some("not valid for name")),
        ("of the past", trusted.server("localhost", (2020, 2021)), Some("expired")),
        ("of the future", trusted.server("localhost", (2089, 2090)), Some("not valid yet")),
    ] {
        let endpoint = format!("https://localhost:{}", front(&bench, config).await);
        let mut command = bench.bramble(&["fetch", "hf:org/tiny"]);
        command.env("HF_ENDPOINT", endpoint).env("HF_TOKEN", "hf_secret");
        let output = command.env("SSL_CERT_FILE", bench.path("roots.pem")).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let tokens: Vec<_> = bench.hub.take_seen().into_iter().map(|seen| seen.authorization).collect();
        let Some(why) = why else {
            assert!(
                tokens.iter().any(|token| token.as_deref() == Some("Bearer hf_secret")),
                "{what}: {said}"
            );
            continue;
        };
        assert!(output.status.code() == Some(1) && said.contains(why), "{what}: {said}");
        assert!(tokens.is_empty(), "{what}: it was asked {tokens:?}");
    }
}
