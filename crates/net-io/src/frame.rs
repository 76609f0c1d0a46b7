//! The frames that tell the neighbours where an address is, and those that tell us that somebody else claims it.

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    icmpv6::NeighborAdvertisementHeader,
};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl TryFrom<&[u8]> for MacAddress {
    type Error = std::array::TryFromSliceError;
    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const BROADCAST: [u8; 6] = [0xff; 6];
/// ff02::1 as an Ethernet address (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The frames of one announcement of `address` at `mac`.
///
/// IPv4: an ARP announcement in both of its forms, since some neighbours heed only requests and some only replies
/// (RFC 5227, section 2.3 and 3). IPv6: an unsolicited neighbour advertisement that overrides (RFC 4861, section 7.2.6).
pub(crate) fn announcements(address: IpAddr, mac: MacAddress) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            vec![arp(address, mac, ArpOperation::REQUEST, [0; 6]), arp(address, mac, ArpOperation::REPLY, BROADCAST)]
        }
        IpAddr::V6(address) => vec![advertisement(address, mac)],
    }
}

fn arp(address: Ipv4Addr, mac: MacAddress, operation: ArpOperation, target_mac: [u8; 6]) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: mac.0,
        sender_ipv4: address.octets(),
        target_mac,
        target_ipv4: address.octets(),
    };
    let builder = PacketBuilder::ethernet2(mac.0, BROADCAST).arp(packet.into());
    let mut frame = Vec::with_capacity(builder.size());
    builder.write(&mut frame).expect("a vector takes every byte, and the sizes of ARP over Ethernet are fixed");
    frame
}

fn advertisement(address: Ipv6Addr, mac: MacAddress) -> Vec<u8> {
    let header = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    let mut payload = Vec::with_capacity(24);
    payload.extend_from_slice(&address.octets());
    // Target link-layer address option, in units of 8 bytes.
    payload.extend_from_slice(&[2, 1]);
    payload.extend_from_slice(&mac.0);
    let builder = PacketBuilder::ethernet2(mac.0, ALL_NODES_MAC)
        .ipv6(address.octets(), ALL_NODES.octets(), 255)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header));
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).expect("a vector takes every byte, and the payload is short");
    frame
}

/// Who says in `frame` that `address` is theirs; `None` if nobody does. An ARP probe (sender 0.0.0.0) claims nothing.
pub(crate) fn claimant(frame: &[u8], address: IpAddr) -> Option<MacAddress> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (address, packet.net?) {
        (IpAddr::V4(address), NetSlice::Arp(arp)) => {
            if arp.proto_addr_type() != EtherType::IPV4 || arp.sender_protocol_addr() != address.octets() {
                return None;
            }
            MacAddress::try_from(arp.sender_hw_addr()).ok()
        }
        (IpAddr::V6(address), NetSlice::Ipv6(_)) => {
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { return None };
            if !matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(_)) {
                return None;
            }
            let (target, options) = icmp.payload().split_at_checked(16)?;
            if target != address.octets() {
                return None;
            }
            match options {
                [2, 1, mac @ ..] => MacAddress::try_from(mac.get(..6)?).ok(),
                // Without the option the frame's own source is all there is to know.
                _ => MacAddress::try_from(frame.get(6..12)?).ok(),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    #[test]
    fn every_announcement_claims_its_address_and_no_other() {
        for (address, other) in [("10.9.0.10", "10.9.0.11"), ("fd00::10", "fd00::11")] {
            let (address, other) = (address.parse().expect("an address"), other.parse().expect("an address"));
            for frame in announcements(address, MAC) {
                assert_eq!(claimant(&frame, address), Some(MAC));
                assert_eq!(claimant(&frame, other), None);
                for cut in 0..frame.len() {
                    // A frame that was cut short may still name its claimant, never another.
                    assert!(claimant(&frame[..cut], address).is_none_or(|mac| mac == MAC), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn arp_frames_have_the_bytes_of_rfc_826() {
        let frames = announcements("10.9.0.10".parse().expect("an address"), MAC);
        let head = [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4];
        assert_eq!(frames[0][..20], head);
        assert_eq!(frames[0][20..], [0, 1, 2, 0, 0, 0, 0, 7, 10, 9, 0, 10, 0, 0, 0, 0, 0, 0, 10, 9, 0, 10]);
        assert_eq!(frames[1][20..22], [0, 2]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..128)) {
            claimant(&frame, IpAddr::from([10, 9, 0, 10]));
            claimant(&frame, IpAddr::from([0u16; 8]));
        }
    }
}
