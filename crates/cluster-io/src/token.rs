//! What a person carries from the first node to the next.

use std::{fmt, str::FromStr};

use tandem_base::ClusterId;

/// Lets a machine become a node: names the cluster, pins its certificate authority, and proves that a person allowed it.
///
/// As text: `tandem1.<cluster>.<fingerprint>.<secret>.<address>[,<address>...]`, numbers in hex.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the CA certificate's DER.
    pub fingerprint: [u8; 32],
    /// Drawn at random; the log holds only its digest.
    pub secret: [u8; 16],
    /// Nodes to ask, `host:port`, in this order.
    pub addresses: Vec<String>,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It does not look like one.
    #[error("this is no join token: it begins with `tandem1.` and has five parts")]
    Shape,
    /// A part is damaged.
    #[error("the join token is damaged: its {part} is not {expected}")]
    Part {
        /// Which.
        part: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl JoinToken {
    /// What the log remembers of the secret: its SHA-256, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.secret)
    }
}

/// The digest of a secret as the log holds it.
pub(crate) fn digest(secret: &[u8]) -> String {
    hex(&sha256(secret))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fingerprint, secret) = (hex(&self.fingerprint), hex(&self.secret));
        write!(f, "tandem1.{}.{fingerprint}.{secret}.{}", self.cluster, self.addresses.join(","))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().splitn(5, '.');
        let mut next = || parts.next().ok_or(TokenError::Shape);
        if next()? != "tandem1" {
            return Err(TokenError::Shape);
        }
        let wrong = |part, expected| TokenError::Part { part, expected };
        let cluster = unhex::<16>(next()?).ok_or(wrong("cluster id", "32 hex digits"))?;
        let fingerprint = unhex(next()?).ok_or(wrong("CA fingerprint", "64 hex digits"))?;
        let secret = unhex(next()?).ok_or(wrong("secret", "32 hex digits"))?;
        let addresses: Vec<String> = next()?.split(',').map(str::to_owned).collect();
        if addresses.iter().any(|address| !address.contains(':') || address.contains(char::is_whitespace)) {
            return Err(wrong("address list", "host:port, separated by commas"));
        }
        Ok(Self { cluster: ClusterId(u128::from_be_bytes(cluster)), fingerprint, secret, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_itself_and_refuses_damage() {
        let token = JoinToken {
            cluster: ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            fingerprint: [7; 32],
            secret: [9; 16],
            addresses: vec!["10.1.0.11:7400".into(), "[fd00::1]:7400".into()],
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()), "pasted with its line end");
        assert!(!format!("{token:?}").contains("0909"), "the secret is not printed by mistake");
        assert_eq!("".parse::<JoinToken>(), Err(TokenError::Shape));
        assert_eq!(
            "tandem1.12".parse::<JoinToken>(),
            Err(TokenError::Part { part: "cluster id", expected: "32 hex digits" })
        );
        for cut in [1, 20, 60] {
            assert!(text[..text.len() - cut].parse::<JoinToken>().is_err() || cut < 14, "cut by {cut}");
        }
        assert!(text.replace("0707", "07g7").parse::<JoinToken>().is_err());
        assert!(text.replace(":7400", "").parse::<JoinToken>().is_err());
    }
}
