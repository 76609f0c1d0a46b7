//! The NBD state machines against initiators of every kind.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use tandem_volume_io::nbd::{
    Command, CommandFlags, ExportInfo, Exports, Handshake, HandshakeError, Progress, Unavailable, next_request,
};

struct One;

impl Exports for One {
    type Target = u8;

    fn list(&self) -> Vec<String> {
        vec!["ledger".into()]
    }

    fn find(&self, name: &str) -> Result<ExportInfo<u8>, Unavailable> {
        match name {
            "ledger" => Ok(ExportInfo { target: 7, size: 1 << 20, description: "a volume".into() }),
            "later" => Err(Unavailable::NotNow("not now".into())),
            _ => Err(Unavailable::Never("no such volume".into())),
        }
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.put_u32(number);
    bytes.put_u32(data.len() as u32);
    bytes.put_slice(data);
    bytes
}

fn go(name: &str) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(name.len() as u32);
    data.put_slice(name.as_bytes());
    data.put_u16(0);
    option(7, &data)
}

/// Feeds `bytes` in pieces of `piece`; the end and the answers.
fn converse(bytes: &[u8], piece: usize) -> (Result<Progress<u8>, HandshakeError>, Vec<u8>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(&mut out);
    let mut input = BytesMut::new();
    let mut progress = Ok(Progress::Waiting);
    for part in bytes.chunks(piece.max(1)) {
        input.extend_from_slice(part);
        progress = handshake.advance(&mut input, &One, &mut out);
        if !matches!(progress, Ok(Progress::Waiting)) {
            break;
        }
    }
    (progress, out)
}

/// The kinds of the option replies in `out`.
fn kinds(out: &[u8]) -> Vec<u32> {
    let mut rest = &out[18..];
    let mut kinds = Vec::new();
    while rest.len() >= 20 {
        kinds.push(u32::from_be_bytes(rest[12..16].try_into().unwrap()));
        let length = u32::from_be_bytes(rest[16..20].try_into().unwrap()) as usize;
        rest = &rest[20 + length..];
    }
    kinds
}

const ACK: u32 = 1;
const INFO: u32 = 3;
const ERR_UNSUP: u32 = (1 << 31) + 1;
const ERR_POLICY: u32 = (1 << 31) + 2;
const ERR_INVALID: u32 = (1 << 31) + 3;
const ERR_UNKNOWN: u32 = (1 << 31) + 6;

#[test]
fn an_export_is_chosen_whatever_the_pieces() {
    let bytes = [&[0, 0, 0, 3][..], &option(8, &[]), &go("ledger")].concat();
    for piece in [1, 2, 3, 7, 16, 1000] {
        let (progress, out) = converse(&bytes, piece);
        let Ok(Progress::Chosen(session)) = progress else { panic!("piece {piece}: {progress:?}") };
        assert_eq!((session.target, session.size, session.structured, session.block_status), (7, 1 << 20, true, false));
        assert_eq!(kinds(&out), [ACK, INFO, INFO, ACK]);
    }
}

#[test]
fn what_cannot_be_had_is_refused_and_the_handshake_goes_on() {
    let bytes = [
        &[0, 0, 0, 3][..],
        &go("nothing"),
        &go("later"),
        &option(7, &[0, 0, 0, 200, 1]),
        &option(10, &[]),
        &option(5, &[]),
        &option(3, b"data"),
        &option(2, &[]),
    ]
    .concat();
    let (progress, out) = converse(&bytes, 1000);
    assert_eq!(progress, Ok(Progress::Aborted));
    assert_eq!(kinds(&out), [ERR_UNKNOWN, ERR_POLICY, ERR_INVALID, ERR_INVALID, ERR_UNSUP, ERR_INVALID, ACK]);
}

#[test]
fn hostile_lengths_end_the_connection_without_memory() {
    let (progress, _) = converse(&[&[0, 0, 0, 3][..], b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff"].concat(), 1000);
    assert!(matches!(progress, Err(HandshakeError::TooLong { .. })), "{progress:?}");
    // A count of queries that no payload backs.
    let mut data = Vec::new();
    data.put_u32(6);
    data.put_slice(b"ledger");
    data.put_u32(u32::MAX);
    let (_, out) = converse(&[&[0, 0, 0, 3][..], &option(8, &[]), &option(10, &data)].concat(), 1000);
    assert_eq!(kinds(&out), [ACK, ERR_INVALID]);
    let mut request = BytesMut::new();
    request.put_u32(0x2560_9513);
    request.put_slice(&[0, 0, 0, 1]);
    request.put_slice(&[0; 16]);
    request.put_u32(u32::MAX);
    assert!(next_request(&mut request).is_err());
}

proptest! {
    #[test]
    fn garbage_never_panics_and_pieces_do_not_matter(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        options in proptest::collection::vec((0u32..12, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        piece in 1usize..50,
    ) {
        let mut stream = vec![0, 0, 0, 3];
        for (number, data) in &options {
            stream.extend(option(*number, data));
        }
        stream.extend(&bytes);
        let whole = converse(&stream, stream.len());
        prop_assert_eq!(converse(&stream, piece), whole);
        let _ = converse(&bytes, piece);
    }

    #[test]
    fn requests_come_out_whole_whatever_the_pieces(
        writes in proptest::collection::vec((any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300)), 1..8),
        piece in 1usize..100,
    ) {
        let mut stream = Vec::new();
        for (cookie, offset, data) in &writes {
            stream.put_u32(0x2560_9513);
            stream.put_u16(CommandFlags::FUA);
            stream.put_u16(1);
            stream.put_u64(*cookie);
            stream.put_u64(*offset);
            stream.put_u32(data.len() as u32);
            stream.put_slice(data);
        }
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        for part in stream.chunks(piece) {
            input.extend_from_slice(part);
            loop {
                match next_request(&mut input).unwrap() {
                    Ok(request) => {
                        prop_assert!(request.flags.has(CommandFlags::FUA));
                        let Command::Write(data) = request.command else { panic!("a write") };
                        seen.push((request.cookie, request.offset, data.to_vec()));
                    }
                    Err(missing) => {
                        prop_assert!(missing > 0);
                        break;
                    }
                }
            }
        }
        prop_assert_eq!(seen, writes);
    }

    #[test]
    fn garbage_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Ok(_)) = next_request(&mut input) {}
    }
}
