//! What a client needs to speak TLS with servers whose certificates an own CA has signed: the contents of PEM files in, a
//! configuration for rustls out.
//!
//! A server is believed if its certificate chains up to the CA **and** names the host that was asked for: a DNS name, or, for an
//! address, an IP entry among its alternative names. The system's own list of CAs is not asked: whoever gets a certificate there
//! is not yet one of our servers ([`Tls::of_system`] is for those of others). TLS 1.2 and 1.3.
//!
//! No I/O happens here.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Certificates of those who sign servers' certificates.
    Ca,
    /// Our own certificate, with what signed it up to the CA of the server.
    Certificate,
    /// The key of our own certificate.
    Key,
}

/// Which file is of no use, and why. Never says what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TlsError {
    /// The file.
    pub part: Part,
    /// In words.
    pub why: String,
}

/// Who we are: PEM texts of a certificate chain and of its key.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Our certificate first.
    pub certificate: &'a [u8],
    /// Its private key (PKCS#8, PKCS#1 or SEC1), without a passphrase.
    pub key: &'a [u8],
}

/// How to speak TLS; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// What it was made of, to tell whether two are the same.
    made_of: Arc<[Vec<u8>; 3]>,
}

impl Tls {
    /// From PEM texts: the CA's certificates, and who we are, for servers that want to know (`tls-auth-clients`).
    ///
    /// # Errors
    /// [`TlsError`]: a text without a certificate or key, a key that does not belong to the certificate.
    pub fn new(ca: &[u8], identity: Option<Identity<'_>>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(Part::Ca, ca)? {
            roots.add(certificate).map_err(|e| TlsError { part: Part::Ca, why: e.to_string() })?;
        }
        Self::believing(roots, ca, identity)
    }

    /// From a system's long list of CAs, for servers of others. What is unfit in it is left out.
    ///
    /// # Errors
    /// [`TlsError`]: a text without any fit certificate.
    pub fn of_system(list: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(list).flatten());
        Self::believing(roots, list, None)
    }

    fn believing(roots: RootCertStore, ca: &[u8], identity: Option<Identity<'_>>) -> Result<Self, TlsError> {
        let wrong = |part, why: &dyn fmt::Display| TlsError { part, why: why.to_string() };
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.build().map_err(|e| wrong(Part::Ca, &e))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(Part::Ca, &e))?
            .with_webpki_verifier(verifier);
        let mut made_of = [ca.to_vec(), Vec::new(), Vec::new()];
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                made_of[1..].clone_from_slice(&[certificate.to_vec(), key.to_vec()]);
                let chain = certificates(Part::Certificate, certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| wrong(Part::Key, &"no private key in PEM without a passphrase"))?;
                config.with_client_auth_cert(chain, key).map_err(|e| wrong(Part::Key, &e))?
            }
        };
        Ok(Self { config: Arc::new(config), made_of: Arc::new(made_of) })
    }

    /// For a connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The PEM texts that it was made of: the CA's certificates, and our chain and key, if there are any.
    pub fn pem(&self) -> (&[u8], Option<Identity<'_>>) {
        let [ca, certificate, key] = &*self.made_of;
        let identity = Identity { certificate, key };
        (ca, (!certificate.is_empty()).then_some(identity))
    }

    /// What a server's certificate has to name: the host as it was asked for.
    pub fn server_name(host: &str) -> Option<ServerName<'static>> {
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }
}

impl Eq for Tls {}

/// Nothing of the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &!self.made_of[1].is_empty()).finish_non_exhaustive()
    }
}

/// What TLS itself says of a failed handshake: a matter of certificates or versions. `None` means that the connection ended.
pub fn refusal(error: &io::Error) -> Option<String> {
    let of_tls = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
    of_tls.then(|| error.to_string())
}

fn certificates(part: Part, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: &str| TlsError { part, why: why.to_owned() };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(all) if all.is_empty() => Err(wrong("no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(_) => Err(wrong("broken PEM")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_named() {
        let part = |ca: &[u8]| Tls::new(ca, None).map_err(|error| (error.part, error.why)).err();
        assert_eq!(part(b""), Some((Part::Ca, "no certificate in PEM".to_owned())));
        assert_eq!(part(b"junk"), Some((Part::Ca, "no certificate in PEM".to_owned())));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert_eq!(part(broken), Some((Part::Ca, "broken PEM".to_owned())));
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(part(empty).map(|(part, _)| part), Some(Part::Ca));
    }

    #[test]
    fn a_server_is_asked_for_by_name_or_address() {
        for host in ["redis-1.example", "10.0.0.1", "[::1]", "::1", "localhost"] {
            assert!(Tls::server_name(host).is_some(), "{host}");
        }
        assert!(Tls::server_name("not a name").is_none());
    }
}
