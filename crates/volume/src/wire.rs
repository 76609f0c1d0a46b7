//! Messages as frames on a byte stream.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::Message;

/// Payload bytes in the largest frame: the NBD limit for one request.
pub const PAYLOAD_MAX: usize = 32 << 20;

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

/// A message as a frame: the head, and the payload that follows it on the stream, uncopied.
#[must_use]
pub fn encode(_message: &Message) -> (Vec<u8>, Option<Bytes>) {
    (Vec::new(), None)
}

/// Cuts a byte stream into messages. Feed what the socket gave, then call [`next`](Self::next) until it is `None`.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// Takes bytes in; big chunks are best, payloads are slices of them.
    pub fn feed(&mut self, _bytes: Bytes) {}

    /// The next whole message.
    ///
    /// # Errors
    ///
    /// [`WireError`]: end the connection; the stream cannot be read on.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        Ok(None)
    }
}
