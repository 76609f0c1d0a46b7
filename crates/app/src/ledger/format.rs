//! The block that holds one record.
//!
//! | bytes | |
//! | --- | --- |
//! | 0..8 | magic, `TNDMLDG1` |
//! | 8..16 | number, little endian; the record with number n is block n - 1 |
//! | 16..24 | client, little endian |
//! | 24..26 | length of the payload, little endian |
//! | 26..28 | zero |
//! | 28..508 | payload, then zeroes |
//! | 508..512 | CRC-32C of everything before, little endian |
//!
//! A block is a sector, the unit that disks write whole.

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
const HEADER: usize = 28;
/// The most bytes of a payload.
pub(super) const PAYLOAD_MAX: usize = BLOCK - HEADER - 4;
const MAGIC: &[u8; 8] = b"TNDMLDG1";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// From 1 on, without gaps.
    pub(super) number: u64,
    /// Who wrote it.
    pub(super) client: u64,
    /// At most [`PAYLOAD_MAX`] bytes.
    pub(super) payload: Vec<u8>,
}

impl Record {
    /// The record as its block.
    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[8..16].copy_from_slice(&self.number.to_le_bytes());
        block[16..24].copy_from_slice(&self.client.to_le_bytes());
        let length = u16::try_from(self.payload.len()).expect("the server refuses payloads above PAYLOAD_MAX");
        block[24..26].copy_from_slice(&length.to_le_bytes());
        block[HEADER..][..self.payload.len()].copy_from_slice(&self.payload);
        let sum = crc32c::crc32c(&block[..BLOCK - 4]);
        block[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// The record in a block; `None` if there is none, or it is torn or damaged.
    pub(super) fn decode(block: &[u8; BLOCK]) -> Option<Self> {
        let sum = u32::from_le_bytes(block[BLOCK - 4..].try_into().expect("four bytes"));
        if !has_magic(block) || crc32c::crc32c(&block[..BLOCK - 4]) != sum {
            return None;
        }
        let number = u64::from_le_bytes(block[8..16].try_into().expect("eight bytes"));
        let client = u64::from_le_bytes(block[16..24].try_into().expect("eight bytes"));
        let length = usize::from(u16::from_le_bytes([block[24], block[25]]));
        let payload = block[HEADER..BLOCK - 4].get(..length)?.to_vec();
        Some(Self { number, client, payload })
    }
}

/// Whether a block is a record of ours, whole or not.
pub(super) fn has_magic(block: &[u8; BLOCK]) -> bool {
    block.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_block_and_any_flipped_bit_is_seen() {
        for length in [0, 1, PAYLOAD_MAX] {
            let record = Record { number: 7, client: u64::MAX, payload: vec![b'x'; length] };
            let block = record.encode();
            assert_eq!(Record::decode(&block).as_ref(), Some(&record));
            for bit in 0..BLOCK * 8 {
                let mut damaged = block;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&damaged), None, "bit {bit}");
            }
        }
        assert_eq!(Record::decode(&[0; BLOCK]), None);
    }
}
