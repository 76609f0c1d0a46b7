//! Frames: round trips, garbage, and vectors that must never change.

use bytes::Bytes;
use proptest::prelude::*;
use tandem_base::{ClusterId, Epoch, OpenId};
use tandem_volume::{
    Content, Hello, Message, SequencedWrite, Span, VolumeIndex, VolumeSpec,
    meta::Chapter,
    wire::{Decoder, WireError, encode},
};

fn epoch() -> impl Strategy<Value = Epoch> {
    (any::<u64>(), any::<u64>()).prop_map(|(number, tag)| Epoch { number, tag })
}

fn span() -> impl Strategy<Value = Span> {
    (any::<u16>(), any::<u64>(), any::<u64>()).prop_map(|(volume, offset, length)| Span {
        volume: VolumeIndex(volume),
        offset,
        length,
    })
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn hello() -> impl Strategy<Value = Message> {
    let volumes = prop::collection::vec((text(), any::<u64>()), 0..5);
    (any::<u16>(), any::<u128>(), text(), text(), any::<u64>(), epoch(), volumes).prop_map(
        |(version, cluster, group, node, open, promised, volumes)| {
            let volume = |(name, size): (String, u64)| VolumeSpec { name: name.parse().expect("a name"), size };
            Message::Hello(Hello {
                version,
                cluster: ClusterId(cluster),
                generation: cluster as u64,
                group: group.parse().expect("a name"),
                node: node.parse().expect("a name"),
                open: OpenId(open),
                promised,
                volumes: volumes.into_iter().map(volume).collect(),
            })
        },
    )
}

fn write() -> impl Strategy<Value = Message> {
    let data = prop::collection::vec(any::<u8>(), 0..2000).prop_map(|data| Content::Data(Bytes::from(data)));
    let zero =
        (any::<u64>(), any::<bool>()).prop_map(|(length, keep_allocated)| Content::Zero { length, keep_allocated });
    let content = prop_oneof![data, zero];
    (epoch(), any::<u64>(), any::<u64>(), any::<u16>(), any::<u64>(), content, any::<u32>(), any::<bool>()).prop_map(
        |(promotion, sequence, committed, volume, offset, content, checksum, durable)| {
            let checksum = if matches!(content, Content::Data(_)) { checksum } else { 0 };
            let volume = VolumeIndex(volume);
            Message::Write(SequencedWrite {
                promotion,
                sequence,
                committed,
                volume,
                offset,
                content,
                checksum,
                durable,
            })
        },
    )
}

fn chapter() -> impl Strategy<Value = Chapter> {
    (epoch(), any::<u64>()).prop_map(|(epoch, last)| Chapter { epoch, last })
}

fn history() -> impl Strategy<Value = Vec<Chapter>> {
    prop::collection::vec(chapter(), 0..=tandem_volume::meta::history::CHAPTERS_MAX)
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        hello(),
        epoch().prop_map(|promotion| Message::Lead { promotion }),
        (epoch(), prop::collection::vec(span(), 0..20), history())
            .prop_map(|(promotion, unsettled, history)| Message::Promised { promotion, unsettled, history }),
        (epoch(), prop::option::of(chapter())).prop_map(|(promotion, after)| Message::Fork { promotion, after }),
        (epoch(), prop::collection::vec(span(), 0..20), any::<bool>())
            .prop_map(|(promotion, spans, last)| Message::Changed { promotion, spans, last }),
        (epoch(), history()).prop_map(|(promotion, history)| Message::Settled { promotion, history }),
        write(),
        (epoch(), any::<u64>()).prop_map(|(promotion, sequence)| Message::Stored { promotion, sequence }),
        (epoch(), any::<u64>(), any::<u64>()).prop_map(|(promotion, flush, committed)| Message::Flush {
            promotion,
            flush,
            committed
        }),
        (epoch(), any::<u64>()).prop_map(|(promotion, flush)| Message::Flushed { promotion, flush }),
        (epoch(), any::<u64>()).prop_map(|(promotion, sequence)| Message::Durable { promotion, sequence }),
        (epoch(), any::<u64>(), span(), any::<u64>()).prop_map(|(promotion, chunk, span, written)| Message::Compare {
            promotion,
            chunk,
            span,
            written
        }),
        (epoch(), any::<u64>(), prop::collection::vec(any::<[u8; 32]>(), 0..5))
            .prop_map(|(promotion, chunk, hashes)| Message::Hashes { promotion, chunk, hashes }),
        epoch().prop_map(|promotion| Message::Adopted { promotion }),
        epoch().prop_map(|promised| Message::NotYours { promised }),
        "[ -~]{0,99}".prop_map(|why| Message::Failed { why }),
        (epoch(), any::<u64>()).prop_map(|(promotion, committed)| Message::Ping { promotion, committed }),
        Just(Message::Pong),
    ]
}

fn frame(message: &Message) -> Vec<u8> {
    let (mut bytes, payload) = encode(message);
    bytes.extend_from_slice(&payload.unwrap_or_default());
    bytes
}

fn all(decoder: &mut Decoder) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    while let Some(message) = decoder.next()? {
        messages.push(message);
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn messages_survive_any_cutting_of_the_stream(
        messages in prop::collection::vec(message(), 1..8),
        cuts in prop::collection::vec(1..700usize, 1..40),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(frame).collect();
        let (mut decoder, mut rest, mut decoded) = (Decoder::default(), &stream[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            decoder.feed(Bytes::copy_from_slice(now));
            decoded.extend(all(&mut decoder).expect("the stream is sound"));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(decoded, messages);
    }

    #[test]
    fn garbage_is_an_error_or_too_little_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::from(bytes));
        let _ = all(&mut decoder);
    }

    /// With a right checksum the fields themselves are tried.
    #[test]
    fn garbage_fields_never_panic(kind in 0..20u8, fields in prop::collection::vec(any::<u8>(), 0..120), payload in 0..9u32) {
        let mut head = vec![kind];
        head.extend_from_slice(&fields);
        let mut bytes = (head.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&payload.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &head);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend(std::iter::repeat_n(0, payload as usize));
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::from(bytes));
        if let Ok(Some(message)) = decoder.next() {
            let mut again = Decoder::default();
            again.feed(Bytes::from(frame(&message)));
            prop_assert_eq!(again.next(), Ok(Some(message)));
        }
    }

    #[test]
    fn a_flipped_bit_in_a_head_is_noticed(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (mut head, payload) = encode(&message);
        let at = at.index(head.len());
        head[at] ^= 1 << bit;
        let mut decoder = Decoder::default();
        decoder.feed(head.into());
        decoder.feed(payload.unwrap_or_default());
        prop_assert!(!matches!(decoder.next(), Ok(Some(_))));
    }
}

#[test]
fn a_payload_within_one_chunk_is_not_copied() {
    let data = Bytes::from(vec![7; 4096]);
    let write = SequencedWrite {
        promotion: Epoch { number: 3, tag: 4 },
        sequence: 2,
        committed: 1,
        volume: VolumeIndex(0),
        offset: 8192,
        checksum: crc32c::crc32c(&data),
        content: Content::Data(data.clone()),
        durable: true,
    };
    let (_, payload) = encode(&Message::Write(write.clone()));
    assert_eq!(payload.expect("data travels as payload").as_ptr(), data.as_ptr());
    let stream = Bytes::from(frame(&Message::Write(write)));
    let range = stream.as_ptr_range();
    let mut decoder = Decoder::default();
    decoder.feed(stream.clone());
    let Ok(Some(Message::Write(SequencedWrite { content: Content::Data(decoded), .. }))) = decoder.next() else {
        panic!("a write")
    };
    assert!(range.contains(&decoded.as_ptr()));
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_is_awaited() {
    for (head, payload) in [(0u32, 0u32), (u32::MAX, 0), (20, u32::MAX), (20, (32 << 20) + 1)] {
        let mut bytes = head.to_le_bytes().to_vec();
        bytes.extend_from_slice(&payload.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::from(bytes));
        assert_eq!(decoder.next(), Err(WireError::TooLong { head, payload }));
        decoder.feed(Bytes::from(frame(&Message::Pong)));
        assert_eq!(decoder.next(), Err(WireError::TooLong { head, payload }), "the stream cannot be read on");
    }
}

/// Two releases must understand each other: these bytes never change.
#[test]
fn the_vectors_hold() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&frame(&Message::Pong)), PONG);
    let write = Message::Write(SequencedWrite {
        promotion: Epoch { number: 3, tag: 4 },
        sequence: 2,
        committed: 1,
        volume: VolumeIndex(5),
        offset: 8192,
        checksum: crc32c::crc32c(b"abc"),
        content: Content::Data(Bytes::from_static(b"abc")),
        durable: true,
    });
    assert_eq!(hex(&frame(&write)), WRITE);
    let hello = Message::Hello(Hello {
        version: 1,
        cluster: ClusterId(7),
        generation: 1,
        group: "g".parse().expect("a name"),
        node: "r1".parse().expect("a name"),
        open: OpenId(9),
        promised: Epoch { number: 1, tag: 2 },
        volumes: vec![VolumeSpec { name: "v".parse().expect("a name"), size: 4096 }],
    });
    assert_eq!(hex(&frame(&hello)), HELLO);
}

const PONG: &str = "0100000000000000cc01a3e30e";
const WRITE: &str = concat!(
    "300000000300000036165013040300000000000000040000000000000002000000000000000100000000000000050000",
    "2000000000000001b73f4b36616263",
);
const HELLO: &str = concat!(
    "4700000000000000902699260101000700000000000000000000000000000001000000000000000100670200723109000000",
    "000000000100000000000000020000000000000001000100760010000000000000",
);
