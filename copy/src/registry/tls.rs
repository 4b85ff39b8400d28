//! TLS settings of a registry: roots, extra authorities, client certificates.
//!
//! Loading the system's roots takes milliseconds, so it happens when the first HTTPS connection to a registry is
//! made and never for a plain-HTTP one. The provider of cryptography is chosen here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerfs::error::{Context, Error, Kind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The system's authorities and those of `certs.d`.
    Authorities,
    /// Anybody: the user said so.
    Anybody,
    /// Nobody: for clients that speak plain HTTP only.
    Nobody,
}

/// Which protocols to offer. Blobs go over parallel HTTP/1.1 connections, which cost a third less CPU per byte than
/// HTTP/2 streams; small requests share one HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// HTTP/2 or HTTP/1.1, as the server likes.
    Any,
    /// HTTP/1.1 only.
    Http1,
}

/// The TLS configuration of a client. `certificates` is a `certs.d` folder of the registry, where there is one.
pub(crate) fn config(trust: Trust, certificates: Option<&Path>, protocols: Protocols) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::System, "TLS cannot be set up").because(error))?;
    let found = match certificates {
        Some(dir) if trust != Trust::Nobody => Certificates::read(dir)?,
        _ => Certificates::default(),
    };
    let builder = match trust {
        Trust::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified { algorithms })),
        Trust::Authorities => {
            let mut roots = RootCertStore::empty();
            // One unreadable file among the system's does not matter; none at all shows when a certificate is checked.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(found.authorities);
            builder.with_root_certificates(roots)
        }
    };
    let mut config = match found.client {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::new(Kind::Invalid, "client certificate does not fit its key").because(error))?,
        None => builder.with_no_client_auth(),
    };
    // reqwest leaves a configuration it is given as it is: without this it would speak HTTP/1.1 only.
    config.alpn_protocols = match protocols {
        Protocols::Any => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Protocols::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// The first `certs.d` folder that knows `host` (`containers-certs.d(5)`); `user` is `~/.config/containers`.
pub(crate) fn certificates_of(host: &str, user: Option<&Path>) -> Option<PathBuf> {
    let system = ["/etc/containers", "/etc/docker"].map(PathBuf::from);
    let bases = user.map(Path::to_owned).into_iter().chain(system);
    bases.map(|base| base.join("certs.d").join(host)).find(|dir| dir.is_dir())
}

#[derive(Default)]
struct Certificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    /// `*.crt` are authorities, `X.cert` with `X.key` is who we are.
    fn read(dir: &Path) -> Result<Self> {
        let mut found = Self::default();
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir).at("read", dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for file in files {
            let extension = file.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("crt") => found.authorities.extend(chain(&file)?),
                Some("cert") => {
                    let key = file.with_extension("key");
                    let parsed = PrivateKeyDer::from_pem_file(&key).map_err(|error| not_pem(&key, error))?;
                    found.client = Some((chain(&file)?, parsed));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file).map_err(|error| not_pem(file, error))?;
    all.collect::<Result<_, _>>().map_err(|error| not_pem(file, error))
}

fn not_pem(file: &Path, error: rustls::pki_types::pem::Error) -> Error {
    Error::new(Kind::Invalid, format!("`{}` cannot be read as PEM", file.display())).because(error)
}

/// Accepts every certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct Unverified {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Some part of reqwest may ask for the process-wide provider; it gets the same one.
pub(crate) fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Losing a race here means that somebody else installed one: as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
