//! What the switch reads of a frame.

/// Bytes of `struct virtio_net_hdr` before each frame (`IFF_VNET_HDR`, linux/virtio_net.h).
pub(crate) const HEADER: usize = 10;
/// Room for the largest piece that a kernel hands over at once: 64 KiB of segments, Ethernet and virtio headers.
pub(crate) const LENGTH_MAX: usize = HEADER + 14 + 4 + 65_536;
/// Preamble, frame check sequence and the gap between frames (IEEE 802.3, clause 4).
const WIRE_OVERHEAD: u64 = 24;
/// Ethernet, IPv4 and TCP headers that each further segment of a large piece has on a wire.
const SEGMENT_HEADERS: u64 = 66;

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Everyone,
    One([u8; 6]),
}

/// The destination of what was read from a TAP device; none if it is too short to be a frame.
pub(crate) fn destination(read: &[u8]) -> Option<Destination> {
    let mac: [u8; 6] = read.get(HEADER..HEADER + 6)?.try_into().ok()?;
    // The lowest bit of the first byte marks a group, broadcast among them.
    Some(if mac[0] & 1 == 1 { Destination::Everyone } else { Destination::One(mac) })
}

/// Bytes that this frame takes on a wire; a large piece counts as the segments that a network card would make of it.
pub(crate) fn wire_bytes(read: &[u8]) -> u64 {
    let length = read.len().saturating_sub(HEADER) as u64;
    let segment_size = u64::from(u16::from_le_bytes([read[4], read[5]]));
    let segments = if read[1] == 0 || segment_size == 0 { 1 } else { length.div_ceil(segment_size).max(1) };
    length + segments * WIRE_OVERHEAD + (segments - 1) * SEGMENT_HEADERS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(gso: u8, segment: u16, mac: [u8; 6], length: usize) -> Vec<u8> {
        let mut read = vec![0; HEADER + length];
        read[1] = gso;
        read[4..6].copy_from_slice(&segment.to_le_bytes());
        read[HEADER..HEADER + 6].copy_from_slice(&mac);
        read
    }

    #[test]
    fn groups_go_to_everyone() {
        assert_eq!(destination(&read(0, 0, [0xff; 6], 60)), Some(Destination::Everyone));
        assert_eq!(destination(&read(0, 0, [0x33, 0x33, 0, 0, 0, 1], 60)), Some(Destination::Everyone));
        assert_eq!(destination(&read(0, 0, [2, 0, 0, 0, 0, 1], 60)), Some(Destination::One([2, 0, 0, 0, 0, 1])));
        assert_eq!(destination(&[0; HEADER + 5]), None);
    }

    #[test]
    fn a_large_piece_costs_its_segments_headers() {
        assert_eq!(wire_bytes(&read(0, 0, [0; 6], 1_514)), 1_538);
        assert_eq!(wire_bytes(&read(1, 1_448, [0; 6], 2_896)), 2_896 + 2 * 24 + 66);
    }
}
