//! An address with the length of its network's prefix.

use std::{fmt, net::IpAddr, str::FromStr};

/// `10.9.0.10/24`: one address and the network it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not an address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// Not `address/number`.
    #[error("`{0}` is not an address with a prefix length, as in \"10.9.0.10/24\"")]
    Shape(String),
    /// More bits than the address has.
    #[error("a prefix of {prefix} bits is longer than {address}")]
    Prefix {
        /// The address.
        address: IpAddr,
        /// The length given.
        prefix: u8,
    },
}

impl Cidr {
    /// `address` in its network of `prefix` bits.
    ///
    /// # Errors
    ///
    /// [`CidrError::Prefix`] beyond 32 bits for IPv4, 128 for IPv6.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        if prefix > bits(address) { Err(CidrError::Prefix { address, prefix }) } else { Ok(Self { address, prefix }) }
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the network's prefix.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `other` lies in this network.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
            _ => return false,
        };
        let host_bits = u32::from(bits(other) - self.prefix);
        ours.checked_shr(host_bits) == theirs.checked_shr(host_bits)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let shape = || CidrError::Shape(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
        Self::new(address.parse().map_err(|_| shape())?, prefix.parse().map_err(|_| shape())?)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_prints_and_contains() {
        let network: Cidr = "10.9.0.10/24".parse().expect("it is well formed");
        assert_eq!(network.to_string(), "10.9.0.10/24");
        assert!(network.contains("10.9.0.200".parse().expect("an address")));
        assert!(!network.contains("10.9.1.10".parse().expect("an address")));
        assert!(!network.contains("fd00::1".parse().expect("an address")));
        let everything: Cidr = "::/0".parse().expect("it is well formed");
        assert!(everything.contains("fd00::1".parse().expect("an address")));
        let host: Cidr = "fd00::1/128".parse().expect("it is well formed");
        assert!(!host.contains("fd00::2".parse().expect("an address")));
    }

    #[test]
    fn refuses_what_is_no_network() {
        for text in ["", "10.9.0.10", "10.9.0.10/", "10.9.0.10/33", "fd00::1/129", "10.9.0/24", "10.9.0.10/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
