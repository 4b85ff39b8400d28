//! Secret keys: cosign's encrypted file (scrypt and NaCl's secretbox around PKCS#8), or plain PKCS#8 in PEM.

use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use layerfs::error::{Context, Error, Kind, Result};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde::{Deserialize, Serialize};

use crate::credentials::base64;

/// The names such files have in their first line; cosign 1 wrote the second.
const LABELS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
const PLAIN: &str = "PRIVATE KEY";
/// What cosign takes.
const COST: Parameters = Parameters { cost: 1 << 16, block: 8, lanes: 1 };
/// A file that wants more memory than this is not meant well: 128 × cost × block bytes.
const MEMORY_MAX: u64 = 1 << 30;

/// A key that signs: ECDSA on P-256, as cosign makes them.
pub(crate) struct SecretKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

#[derive(Serialize, Deserialize)]
struct File {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Derivation {
    name: String,
    params: Parameters,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Parameters {
    #[serde(rename = "N")]
    cost: u64,
    #[serde(rename = "r")]
    block: u32,
    #[serde(rename = "p")]
    lanes: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl SecretKey {
    /// Reads a key; `password` is asked for where the file is encrypted.
    ///
    /// # Errors
    /// It is no key of these forms, or the password is wrong.
    pub(crate) fn parse(pem: &[u8], password: impl FnOnce() -> Result<String>) -> Result<Self> {
        let text = std::str::from_utf8(pem).map_err(|_| malformed())?;
        let (label, body) = unwrap(text).ok_or_else(malformed)?;
        match label {
            PLAIN => Self::from_pkcs8(body),
            label if LABELS.contains(&label) => Self::from_pkcs8(decrypt(&body, &password()?)?),
            other => {
                Err(Error::new(Kind::Unsupported, format!("a key of the kind `{}` is not known", other.escape_debug()))
                    .hint("keys of cosign and plain PKCS#8 are"))
            }
        }
    }

    /// A new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn generate() -> Result<Self> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| Error::new(Kind::System, "the system gives no randomness for a key"))?;
        Self::from_pkcs8(made.as_ref().to_vec())
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &SystemRandom::new());
        let pair = pair.map_err(|_| Error::new(Kind::Unsupported, "the key is not one for ECDSA on P-256"))?;
        Ok(Self { pkcs8, pair })
    }

    /// Signs a message.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature =
            signature.map_err(|_| Error::new(Kind::System, "the system gives no randomness for a signature"))?;
        Ok(signature.as_ref().to_vec())
    }

    /// The public half.
    pub(crate) fn public_pem(&self) -> String {
        // SubjectPublicKeyInfo of a point on P-256: always these bytes, then the point.
        let mut der = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        der.extend_from_slice(self.pair.public_key().as_ref());
        wrap("PUBLIC KEY", &der)
    }

    /// The key as cosign keeps it.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn to_pem(&self, password: &str) -> Result<String> {
        let (mut salt, mut nonce) = ([0; 32], [0; 24]);
        let random = SystemRandom::new();
        random
            .fill(&mut salt)
            .and_then(|()| random.fill(&mut nonce))
            .map_err(|_| Error::new(Kind::System, "the system gives no randomness"))?;
        let secret = derive(password, &salt, COST)?;
        let sealed = XSalsa20Poly1305::new(&secret.into()).encrypt(&Nonce::from(nonce), self.pkcs8.as_slice());
        let file = File {
            kdf: Derivation { name: "scrypt".to_owned(), params: COST, salt: base64::encode(&salt) },
            cipher: Cipher { name: "nacl/secretbox".to_owned(), nonce: base64::encode(&nonce) },
            ciphertext: base64::encode(&sealed.map_err(|_| Error::new(Kind::System, "the key cannot be encrypted"))?),
        };
        Ok(wrap(LABELS[0], &serde_json::to_vec(&file).context(|| "write a key")?))
    }
}

fn decrypt(body: &[u8], password: &str) -> Result<Vec<u8>> {
    // The words of serde_json may quote the file.
    let file: File = serde_json::from_slice(body).map_err(|_| malformed())?;
    if (file.kdf.name.as_str(), file.cipher.name.as_str()) != ("scrypt", "nacl/secretbox") {
        return Err(Error::new(Kind::Unsupported, "the key is encrypted in a way that is not known"));
    }
    let decoded = |text: &str| base64::decode(text).ok_or_else(malformed);
    let nonce: [u8; 24] = decoded(&file.cipher.nonce)?.try_into().map_err(|_| malformed())?;
    let secret = derive(password, &decoded(&file.kdf.salt)?, file.kdf.params)?;
    let opened =
        XSalsa20Poly1305::new(&secret.into()).decrypt(&Nonce::from(nonce), decoded(&file.ciphertext)?.as_slice());
    opened.map_err(|_| Error::new(Kind::Denied, "the password does not open the key").hint("COSIGN_PASSWORD holds it"))
}

fn derive(password: &str, salt: &[u8], parameters: Parameters) -> Result<[u8; 32]> {
    let Parameters { cost, block, lanes } = parameters;
    if !cost.is_power_of_two() || cost.saturating_mul(u64::from(block)).saturating_mul(128) > MEMORY_MAX {
        return Err(malformed());
    }
    let log = u8::try_from(cost.trailing_zeros()).map_err(|_| malformed())?;
    let parameters = scrypt::Params::new(log, block, lanes).map_err(|_| malformed())?;
    let mut secret = [0; 32];
    scrypt::scrypt(password.as_bytes(), salt, &parameters, &mut secret).map_err(|_| malformed())?;
    Ok(secret)
}

fn malformed() -> Error {
    Error::new(Kind::Invalid, "not a secret key in PEM")
}

/// The kind and the content of a PEM document.
fn unwrap(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    Some((label, base64::decode(&body)?))
}

fn wrap(label: &str, bytes: &[u8]) -> String {
    let digits = base64::encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in digits.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
