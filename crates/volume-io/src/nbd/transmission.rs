//! Requests and replies.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::{
    BASE_ALLOCATION_ID, Errno, PAYLOAD_MAX, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STATE_HOLE_ZERO, STRUCTURED_REPLY_MAGIC,
    chunk, command,
};

/// Bytes of a request before its payload.
const HEADER: usize = 28;

/// The flags of a request that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Keep the space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Only if faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;

    /// Whether `flag` is set.
    #[must_use]
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    /// Whether a flag outside `known` is set.
    #[must_use]
    pub const fn beyond(self, known: u16) -> bool {
        self.0 & !known != 0
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write this.
    Write(Bytes),
    /// No more requests come.
    Disconnect,
    /// Make what was replied to durable.
    Flush,
    /// The range is not needed.
    Trim,
    /// The range becomes zeroes.
    WriteZeroes,
    /// Which parts are holes.
    BlockStatus,
    /// Something this server does not know.
    Unknown(u16),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// What.
    pub command: Command,
    /// How.
    pub flags: CommandFlags,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

/// Why the connection must end: the stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransmissionError {
    /// A request without its magic.
    #[error("a request begins with {0:#010x}")]
    Magic(u32),
    /// A write longer than was agreed.
    #[error("a write of {0} bytes, more than {PAYLOAD_MAX}")]
    TooLong(u32),
}

/// Cuts the next request off `input`; `Ok(Err(n))` says that at least `n` more bytes are needed.
///
/// # Errors
///
/// [`TransmissionError`]: end the connection.
pub fn next_request(input: &mut BytesMut) -> Result<Result<RequestHeader, usize>, TransmissionError> {
    if input.len() < HEADER {
        return Ok(Err(HEADER - input.len()));
    }
    let mut head = &input[..HEADER];
    let magic = head.get_u32();
    if magic != REQUEST_MAGIC {
        return Err(TransmissionError::Magic(magic));
    }
    let flags = CommandFlags(head.get_u16());
    let kind = head.get_u16();
    let (cookie, offset, length) = (head.get_u64(), head.get_u64(), head.get_u32());
    let command = match kind {
        command::READ => Command::Read,
        command::WRITE => {
            if length > PAYLOAD_MAX {
                return Err(TransmissionError::TooLong(length));
            }
            let whole = HEADER + length as usize;
            if input.len() < whole {
                return Ok(Err(whole - input.len()));
            }
            input.advance(HEADER);
            let data = input.split_to(length as usize).freeze();
            return Ok(Ok(RequestHeader { command: Command::Write(data), flags, cookie, offset, length }));
        }
        command::DISC => Command::Disconnect,
        command::FLUSH => Command::Flush,
        command::TRIM => Command::Trim,
        command::WRITE_ZEROES => Command::WriteZeroes,
        command::BLOCK_STATUS => Command::BlockStatus,
        other => Command::Unknown(other),
    };
    input.advance(HEADER);
    Ok(Ok(RequestHeader { command, flags, cookie, offset, length }))
}

/// A reply as bytes: the head, and the data that follows it uncopied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Everything before the data.
    pub head: Vec<u8>,
    /// The data of a read.
    pub data: Bytes,
}

impl Reply {
    /// Bytes on the wire.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.head.len() + self.data.len()
    }

    /// The reply to a write, flush, trim or zero that is done.
    #[must_use]
    pub fn done(structured: bool, cookie: u64) -> Self {
        let head = if structured { structured_head(chunk::NONE, cookie, 0) } else { simple_head(0, cookie) };
        Self { head, data: Bytes::new() }
    }

    /// The reply to a read at `offset`.
    #[must_use]
    pub fn data(structured: bool, cookie: u64, offset: u64, data: Bytes) -> Self {
        let head = if structured {
            let mut head = structured_head(chunk::OFFSET_DATA, cookie, 8 + data.len());
            head.put_u64(offset);
            head
        } else {
            simple_head(0, cookie)
        };
        Self { head, data }
    }

    /// The reply to a request that failed; `text` is for people.
    #[must_use]
    pub fn error(structured: bool, cookie: u64, errno: Errno, text: &str) -> Self {
        let head = if structured {
            // The protocol's limit for a string is 4096 bytes.
            let text: String = text.chars().take(1000).collect();
            let mut head = structured_head(chunk::ERROR, cookie, 6 + text.len());
            head.put_u32(errno as u32);
            head.put_u16(u16::try_from(text.len()).expect("1000 characters are at most 4000 bytes"));
            head.put_slice(text.as_bytes());
            head
        } else {
            simple_head(errno as u32, cookie)
        };
        Self { head, data: Bytes::new() }
    }

    /// The reply to a block status request: `(length, is_hole)` from the request's offset on; always structured.
    #[must_use]
    pub fn block_status(cookie: u64, extents: &[(u64, bool)]) -> Self {
        let mut head = structured_head(chunk::BLOCK_STATUS, cookie, 4 + extents.len() * 8);
        head.put_u32(BASE_ALLOCATION_ID);
        for (length, hole) in extents {
            head.put_u32(u32::try_from(*length).expect("an extent is not longer than the request"));
            head.put_u32(if *hole { STATE_HOLE_ZERO } else { 0 });
        }
        Self { head, data: Bytes::new() }
    }
}

fn simple_head(error: u32, cookie: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(16);
    head.put_u32(SIMPLE_REPLY_MAGIC);
    head.put_u32(error);
    head.put_u64(cookie);
    head
}

fn structured_head(kind: u16, cookie: u64, length: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(20 + 16);
    head.put_u32(STRUCTURED_REPLY_MAGIC);
    head.put_u16(chunk::FLAG_DONE);
    head.put_u16(kind);
    head.put_u64(cookie);
    head.put_u32(u32::try_from(length).expect("a chunk is at most 32 MiB"));
    head
}
