//! Messages as frames on a byte stream.
//!
//! ```text
//! offset  bytes
//!      0      4  length of the head, kind included: at most HEAD_MAX
//!      4      4  length of the payload: at most PAYLOAD_MAX, 0 unless the kind is write
//!      8      4  CRC-32C of bytes 0 to 7 and the head; the payload's own checksum is a field of the write
//!     12      1  kind
//!     13      …  fields of the kind, in the order of [`Message`], then the payload
//! ```
//!
//! Numbers are little-endian. An epoch is number and tag (8 + 8), a span is volume, offset, length (2 + 8 + 8), a flag is
//! one byte of 0 or 1, a text or a list is its length and then its elements.

use alloc::{collections::VecDeque, string::String, vec::Vec};
use bytes::Bytes;
use tandem_base::{ClusterId, Epoch, GroupName, NodeName, OpenId, VolumeName};

use crate::{
    Message, VolumeIndex,
    config::VolumeSpec,
    message::{Content, Hello, SequencedWrite, Span},
    meta::{Chapter, history::CHAPTERS_MAX},
};

/// Payload bytes in the largest frame: the NBD limit for one request.
pub const PAYLOAD_MAX: usize = 32 << 20;
/// Bytes of the longest head: a promise with [`SPANS_MAX`] spans and a full history.
pub const HEAD_MAX: usize = 64 + SPANS_MAX * 18 + CHAPTERS_MAX * 24;
/// Spans in one promise.
pub const SPANS_MAX: usize = 64 << 10;
/// Bytes in front of every head.
pub const PREFIX: usize = 12;
const TEXT_MAX: usize = 1024;

/// Why bytes from a peer are not a message. The connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than any message.
    #[error("a frame of {head} + {payload} bytes is longer than any message")]
    TooLong {
        /// Declared length of the head.
        head: u32,
        /// Declared length of the payload.
        payload: u32,
    },
    /// The head was damaged on the way, or is no head.
    #[error("the head of a frame has a wrong checksum")]
    Checksum,
    /// A kind that this version does not know.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// Fields end early, are left over, or hold an impossible value.
    #[error("malformed message of kind {kind}: {what}")]
    Malformed {
        /// Its kind.
        kind: u8,
        /// The field.
        what: &'static str,
    },
}

const HELLO: u8 = 1;
const LEAD: u8 = 2;
const PROMISED: u8 = 3;
const WRITE: u8 = 4;
const ZERO: u8 = 5;
const STORED: u8 = 6;
const FLUSH: u8 = 7;
const FLUSHED: u8 = 8;
const COMPARE: u8 = 9;
const HASHES: u8 = 10;
const NOT_YOURS: u8 = 11;
const FAILED: u8 = 12;
const PING: u8 = 13;
const PONG: u8 = 14;
const DURABLE: u8 = 15;
const FORK: u8 = 16;
const CHANGED: u8 = 17;
const SETTLED: u8 = 18;
const ADOPTED: u8 = 19;

struct Head(Vec<u8>);

impl Head {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }

    fn epoch(&mut self, epoch: Epoch) -> &mut Self {
        self.u64(epoch.number).u64(epoch.tag)
    }

    fn span(&mut self, span: &Span) -> &mut Self {
        self.put(&span.volume.0.to_le_bytes()).u64(span.offset).u64(span.length)
    }

    /// Cut at [`SPANS_MAX`]; senders stay within it.
    fn spans(&mut self, spans: &[Span]) -> &mut Self {
        let spans = &spans[..spans.len().min(SPANS_MAX)];
        self.put(&(spans.len() as u32).to_le_bytes());
        for span in spans {
            self.span(span);
        }
        self
    }

    /// The newest [`CHAPTERS_MAX`]; nobody keeps more.
    fn history(&mut self, history: &[Chapter]) -> &mut Self {
        let history = &history[history.len().saturating_sub(CHAPTERS_MAX)..];
        self.put(&(history.len() as u32).to_le_bytes());
        for chapter in history {
            self.epoch(chapter.epoch).u64(chapter.last);
        }
        self
    }

    /// Cut at [`TEXT_MAX`] bytes; names are shorter.
    fn text(&mut self, text: &str) -> &mut Self {
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.put(&(end as u16).to_le_bytes()).put(&text.as_bytes()[..end])
    }
}

/// A message as a frame: the head, and the payload that follows it on the stream, uncopied.
#[must_use]
pub fn encode(message: &Message) -> (Vec<u8>, Option<Bytes>) {
    let mut head = Head(Vec::with_capacity(96));
    head.put(&[0; PREFIX]);
    let mut payload = None;
    match message {
        Message::Hello(hello) => {
            head.put(&[HELLO]).put(&hello.version.to_le_bytes()).put(&hello.cluster.0.to_le_bytes());
            head.u64(hello.generation);
            head.text(hello.group.as_str()).text(hello.node.as_str()).u64(hello.open.0).epoch(hello.promised);
            head.put(&(hello.volumes.len() as u16).to_le_bytes());
            for volume in &hello.volumes {
                head.text(volume.name.as_str()).u64(volume.size);
            }
        }
        Message::Lead { promotion } => {
            head.put(&[LEAD]).epoch(*promotion);
        }
        Message::Promised { promotion, unsettled, history } => {
            head.put(&[PROMISED]).epoch(*promotion).spans(unsettled).history(history);
        }
        Message::Fork { promotion, after } => {
            head.put(&[FORK]).epoch(*promotion).put(&[u8::from(after.is_some())]);
            if let Some(chapter) = after {
                head.epoch(chapter.epoch).u64(chapter.last);
            }
        }
        Message::Changed { promotion, spans, last } => {
            head.put(&[CHANGED]).epoch(*promotion).spans(spans).put(&[u8::from(*last)]);
        }
        Message::Settled { promotion, history } => {
            head.put(&[SETTLED]).epoch(*promotion).history(history);
        }
        Message::Write(write) => {
            let kind = if matches!(write.content, Content::Data(_)) { WRITE } else { ZERO };
            head.put(&[kind]).epoch(write.promotion).u64(write.sequence).u64(write.committed);
            head.put(&write.volume.0.to_le_bytes()).u64(write.offset).put(&[u8::from(write.durable)]);
            match &write.content {
                Content::Data(data) => {
                    head.put(&write.checksum.to_le_bytes());
                    payload = Some(data.clone());
                }
                Content::Zero { length, keep_allocated } => {
                    head.u64(*length).put(&[u8::from(*keep_allocated)]);
                }
            }
        }
        Message::Stored { promotion, sequence } => {
            head.put(&[STORED]).epoch(*promotion).u64(*sequence);
        }
        Message::Flush { promotion, flush, committed } => {
            head.put(&[FLUSH]).epoch(*promotion).u64(*flush).u64(*committed);
        }
        Message::Flushed { promotion, flush } => {
            head.put(&[FLUSHED]).epoch(*promotion).u64(*flush);
        }
        Message::Durable { promotion, sequence } => {
            head.put(&[DURABLE]).epoch(*promotion).u64(*sequence);
        }
        Message::Compare { promotion, chunk, span, written } => {
            head.put(&[COMPARE]).epoch(*promotion).u64(*chunk).span(span).u64(*written);
        }
        Message::Hashes { promotion, chunk, hashes } => {
            head.put(&[HASHES]).epoch(*promotion).u64(*chunk).put(&(hashes.len() as u32).to_le_bytes());
            for hash in hashes {
                head.put(hash);
            }
        }
        Message::Adopted { promotion } => {
            head.put(&[ADOPTED]).epoch(*promotion);
        }
        Message::NotYours { promised } => {
            head.put(&[NOT_YOURS]).epoch(*promised);
        }
        Message::Failed { why } => {
            head.put(&[FAILED]).text(why);
        }
        Message::Ping { promotion, committed } => {
            head.put(&[PING]).epoch(*promotion).u64(*committed);
        }
        Message::Pong => {
            head.put(&[PONG]);
        }
    }
    let mut head = head.0;
    let length = (head.len() - PREFIX) as u32;
    head[0..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&(payload.as_ref().map_or(0, Bytes::len) as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&head[..8]), &head[PREFIX..]);
    head[8..12].copy_from_slice(&checksum.to_le_bytes());
    (head, payload)
}

/// Cuts a byte stream into messages. Feed what the socket gave, then call [`next`](Self::next) until it is `None`.
#[derive(Debug, Default)]
pub struct Decoder {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    prefix: Option<Prefix>,
    broken: Option<WireError>,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    head: usize,
    payload: usize,
    checksum: u32,
    /// Of the first 8 bytes.
    partial: u32,
}

impl Decoder {
    /// Takes bytes in. A payload that lies within one chunk is a slice of it; otherwise it is put together by a copy.
    pub fn feed(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && self.broken.is_none() {
            self.buffered += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// How many bytes the next message still lacks, at least; worth reading in one go when large.
    #[must_use]
    pub fn lacking(&self) -> usize {
        self.prefix.map_or(PREFIX, |prefix| prefix.head + prefix.payload).saturating_sub(self.buffered)
    }

    /// The next whole message.
    ///
    /// # Errors
    ///
    /// [`WireError`]: end the connection; the stream cannot be read on, and every later call says the same.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.cut();
        if let Err(error) = &result {
            self.chunks.clear();
            self.broken = Some(error.clone());
        }
        result
    }

    fn cut(&mut self) -> Result<Option<Message>, WireError> {
        let prefix = match self.prefix {
            Some(prefix) => prefix,
            None if self.buffered < PREFIX => return Ok(None),
            None => {
                let bytes = self.take(PREFIX);
                let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the slice has 4 bytes"));
                let (head, payload) = (word(0), word(4));
                if head == 0 || head as usize > HEAD_MAX || payload as usize > PAYLOAD_MAX {
                    return Err(WireError::TooLong { head, payload });
                }
                let partial = crc32c::crc32c(&bytes[..8]);
                let prefix = Prefix { head: head as usize, payload: payload as usize, checksum: word(8), partial };
                *self.prefix.insert(prefix)
            }
        };
        if self.buffered < prefix.head + prefix.payload {
            return Ok(None);
        }
        self.prefix = None;
        let head = self.take(prefix.head);
        if crc32c::crc32c_append(prefix.partial, &head) != prefix.checksum {
            return Err(WireError::Checksum);
        }
        let payload = self.take(prefix.payload);
        Fields::read(&head, payload).map(Some)
    }

    /// Exactly `length` buffered bytes.
    fn take(&mut self, length: usize) -> Bytes {
        self.buffered -= length;
        if length == 0 {
            return Bytes::new();
        }
        let front = self.chunks.front_mut().expect("the caller saw that so much is buffered");
        if front.len() > length {
            return front.split_to(length);
        }
        if front.len() == length {
            return self.chunks.pop_front().expect("it was just seen");
        }
        let mut whole = Vec::with_capacity(length);
        while whole.len() < length {
            let front = self.chunks.front_mut().expect("the caller saw that so much is buffered");
            let part = front.split_to(front.len().min(length - whole.len()));
            whole.extend_from_slice(&part);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        whole.into()
    }
}

/// The fields of a head that are not read yet.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(head: &'a [u8], payload: Bytes) -> Result<Message, WireError> {
        let (kind, rest) = head.split_first().expect("an empty head was refused by its length");
        let mut fields = Fields { kind: *kind, rest };
        if !payload.is_empty() && *kind != WRITE {
            return Err(fields.wrong("a payload"));
        }
        let message = fields.message(payload)?;
        if fields.rest.is_empty() { Ok(message) } else { Err(fields.wrong("bytes behind the last field")) }
    }

    fn message(&mut self, payload: Bytes) -> Result<Message, WireError> {
        Ok(match self.kind {
            HELLO => Message::Hello(self.hello()?),
            LEAD => Message::Lead { promotion: self.epoch()? },
            PROMISED => {
                Message::Promised { promotion: self.epoch()?, unsettled: self.spans()?, history: self.history()? }
            }
            FORK => {
                let promotion = self.epoch()?;
                let after = if self.flag()? { Some(self.chapter()?) } else { None };
                Message::Fork { promotion, after }
            }
            CHANGED => Message::Changed { promotion: self.epoch()?, spans: self.spans()?, last: self.flag()? },
            SETTLED => Message::Settled { promotion: self.epoch()?, history: self.history()? },
            WRITE | ZERO => {
                let (promotion, sequence, committed) = (self.epoch()?, self.u64()?, self.u64()?);
                let (volume, offset, durable) = (VolumeIndex(self.u16()?), self.u64()?, self.flag()?);
                let (content, checksum) = if self.kind == WRITE {
                    (Content::Data(payload), self.u32()?)
                } else {
                    (Content::Zero { length: self.u64()?, keep_allocated: self.flag()? }, 0)
                };
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
            }
            STORED => Message::Stored { promotion: self.epoch()?, sequence: self.u64()? },
            FLUSH => Message::Flush { promotion: self.epoch()?, flush: self.u64()?, committed: self.u64()? },
            FLUSHED => Message::Flushed { promotion: self.epoch()?, flush: self.u64()? },
            DURABLE => Message::Durable { promotion: self.epoch()?, sequence: self.u64()? },
            COMPARE => {
                let (promotion, chunk) = (self.epoch()?, self.u64()?);
                Message::Compare { promotion, chunk, span: self.span()?, written: self.u64()? }
            }
            HASHES => {
                let (promotion, chunk, count) = (self.epoch()?, self.u64()?, self.count(32)?);
                Message::Hashes {
                    promotion,
                    chunk,
                    hashes: (0..count).map(|_| self.take("a hash")).collect::<Result<_, _>>()?,
                }
            }
            ADOPTED => Message::Adopted { promotion: self.epoch()? },
            NOT_YOURS => Message::NotYours { promised: self.epoch()? },
            FAILED => Message::Failed { why: String::from(self.text()?) },
            PING => Message::Ping { promotion: self.epoch()?, committed: self.u64()? },
            PONG => Message::Pong,
            other => return Err(WireError::Kind(other)),
        })
    }

    fn hello(&mut self) -> Result<Hello, WireError> {
        let (version, cluster) = (self.u16()?, ClusterId(u128::from_le_bytes(self.take("cluster")?)));
        let generation = self.u64()?;
        let group = GroupName::new(self.text()?).map_err(|_| self.wrong("group"))?;
        let node = NodeName::new(self.text()?).map_err(|_| self.wrong("node"))?;
        let (open, promised) = (OpenId(self.u64()?), self.epoch()?);
        let count = self.u16()?;
        let mut volumes = Vec::new();
        for _ in 0..count {
            let name = VolumeName::new(self.text()?).map_err(|_| self.wrong("volume"))?;
            volumes.push(VolumeSpec { name, size: self.u64()? });
        }
        Ok(Hello { version, cluster, generation, group, node, open, promised, volumes })
    }

    fn wrong(&self, what: &'static str) -> WireError {
        WireError::Malformed { kind: self.kind, what }
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(self.wrong(what))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take("a 16-bit number").map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take("a 32-bit number").map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take("a 64-bit number").map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.take("a flag")? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.wrong("a flag")),
        }
    }

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        Ok(Epoch { number: self.u64()?, tag: self.u64()? })
    }

    fn span(&mut self) -> Result<Span, WireError> {
        Ok(Span { volume: VolumeIndex(self.u16()?), offset: self.u64()?, length: self.u64()? })
    }

    fn spans(&mut self) -> Result<Vec<Span>, WireError> {
        let count = self.count(18)?;
        (0..count).map(|_| self.span()).collect()
    }

    fn chapter(&mut self) -> Result<Chapter, WireError> {
        Ok(Chapter { epoch: self.epoch()?, last: self.u64()? })
    }

    fn history(&mut self) -> Result<Vec<Chapter>, WireError> {
        let count = self.count(24)?;
        if count > CHAPTERS_MAX {
            return Err(self.wrong("a history"));
        }
        (0..count).map(|_| self.chapter()).collect()
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        let length = usize::from(self.u16()?);
        if length > self.rest.len() {
            return Err(self.wrong("a text"));
        }
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        core::str::from_utf8(text).map_err(|_| self.wrong("a text"))
    }

    /// A count of elements of `size` bytes, which must all be there: bounds what is allocated for them.
    fn count(&mut self, size: usize) -> Result<usize, WireError> {
        let count = self.u32()? as usize;
        if count.checked_mul(size).is_some_and(|bytes| bytes <= self.rest.len()) {
            Ok(count)
        } else {
            Err(self.wrong("a count"))
        }
    }
}
