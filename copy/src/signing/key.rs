//! Public keys: PEM of a SubjectPublicKeyInfo (RFC 5280), as cosign and openssl write it.

use layerfs::error::{Error, Kind, Result};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

/// A key that signatures are checked with.
#[derive(Clone)]
pub(crate) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// Object identifiers, as DER has them.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

impl PublicKey {
    /// Reads a key.
    ///
    /// # Errors
    /// It is not PEM, or of a kind that is not known here.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self> {
        let invalid = || Error::new(Kind::Invalid, "not a public key in PEM");
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| invalid())?;
        let (algorithm, bytes) = take_apart(&spki).ok_or_else(|| {
            Error::new(Kind::Unsupported, "a public key of a kind that is not known")
                .hint("ECDSA on P-256 or P-384, Ed25519 and RSA are")
        })?;
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// Whether `signature` was made over `message` with this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// `SEQUENCE { SEQUENCE { algorithm, parameters }, BIT STRING key }`.
fn take_apart(spki: &[u8]) -> Option<(&'static dyn VerificationAlgorithm, &[u8])> {
    let (outer, _) = element(spki, 0x30)?;
    let (identifier, rest) = element(outer, 0x30)?;
    let (bits, _) = element(rest, 0x03)?;
    let (algorithm, parameters) = element(identifier, 0x06)?;
    // The first byte of a bit string counts unused bits; a key has none.
    let key = bits.strip_prefix(&[0])?;
    Some(match algorithm {
        EC => match element(parameters, 0x06)?.0 {
            P256 => (&ECDSA_P256_SHA256_ASN1 as &dyn VerificationAlgorithm, key),
            P384 => (&ECDSA_P384_SHA256_ASN1, key),
            _ => return None,
        },
        ED => (&ED25519, key),
        RSA => (&RSA_PKCS1_2048_8192_SHA256, key),
        _ => return None,
    })
}

/// The content of the element of this kind that `der` begins with, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = der else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        for pem in [&b""[..], b"-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n", b"x"] {
            assert!(PublicKey::parse(pem).is_err());
        }
        assert_eq!(element(&[0x30, 0x82, 0xff, 0xff, 1], 0x30), None);
        assert_eq!(element(&[0x30, 1, 7, 8], 0x30), Some((&[7][..], &[8][..])));
    }
}
