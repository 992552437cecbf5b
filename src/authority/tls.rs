use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use super::Error;
use super::trust::{Refusal, Trust, Usage};
use crate::generation::Identity;
use crate::ids::HostName;

/// Returns how a door speaks TLS: with the host's certificate, to anybody; who shows a certificate must be a host of
/// the fleet. HTTP/2 and HTTP/1.1 are offered.
pub fn door(trust: Arc<Trust>, identity: &Identity) -> Result<ServerConfig, Error> {
    let (certificate, key) = own(identity)?;
    let verifier = Arc::new(Verifier::new(trust, None));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(Error::Unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(Error::Unusable)?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What HTTP/2 is called in the handshake (RFC 7540, 3.3).
const H2: &[u8] = b"h2";

/// Returns how somebody asks the door of `host`, which must show that it is that host, whatever address it is asked at.
/// A host of the fleet shows who it is itself (`identity`); others have keys.
pub fn visit(trust: Arc<Trust>, host: &HostName, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(Verifier::new(trust, Some(host.clone())));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match identity {
        Some(identity) => {
            let (certificate, key) = own(identity)?;
            builder.with_client_auth_cert(vec![certificate], key).map_err(Error::Unusable)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

fn own(identity: &Identity) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
    let pem = |what| move |source| Error::Pem { what, source };
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    Ok((certificate.map_err(pem("the host's certificate"))?, key.map_err(pem("the host's key"))?))
}

/// Asks the fleet's trust, for both ends.
#[derive(Debug)]
struct Verifier {
    trust: Arc<Trust>,
    /// The one host that is meant.
    meant: Option<HostName>,
    hints: [DistinguishedName; 1],
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: Arc<Trust>, meant: Option<HostName>) -> Self {
        let hints = [trust.subject()];
        Self { trust, meant, hints, provider: Arc::new(ring::default_provider()) }
    }

    fn check(&self, certificate: &CertificateDer<'_>, usage: Usage) -> Result<(), rustls::Error> {
        let fault = |refusal| match refusal {
            Refusal::Foreign(_) => CertificateError::UnknownIssuer,
            Refusal::Revoked => CertificateError::Revoked,
            Refusal::Nameless => CertificateError::NotValidForName,
        };
        let member = self.trust.member(certificate, usage).map_err(fault)?;
        if self.meant.as_ref().is_some_and(|meant| *meant != member.host) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(())
    }
}

/// How both ends check that the other one has the key of the certificate that it shows.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signed, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate, Usage::Server).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// The authority alone, so that no browser offers its person other certificates to choose from.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate, Usage::Client).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
