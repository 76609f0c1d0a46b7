//! What agents say to each other on a control connection.
//!
//! After the TLS handshake the dialer sends a [`Hello`] and gets a [`Welcome`]; then it sends requests, and answers come
//! back under the request's number, in any order. A frame is a length of four bytes, big endian, a number of eight, and
//! a body in postcard. The side that accepted never asks anything: it dials a connection of its own.

use std::io;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tandem_base::{NodeName, RunId, SessionId};
use tandem_cluster::{Entry, Outcome, leader::Answer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::raft::{SnapshotMeta, Types, Vote};

/// Raised when an older version could misunderstand a newer one.
pub(crate) const VERSION: u32 = 1;
/// Longest frame on a control connection: a batch of entries, among them a whole plan.
pub(crate) const CONTROL_FRAME_MAX: usize = 8 << 20;
/// Longest frame on a connection for snapshots.
pub(crate) const BULK_FRAME_MAX: usize = 256 << 20;
/// Longest frame before the peers know each other.
pub(crate) const HELLO_FRAME_MAX: usize = 4 << 10;

/// The first frame of the dialer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// The dialer's store.
    pub(crate) raft_id: u64,
    /// The dialer's boot.
    pub(crate) run: RunId,
    /// The store that the dialer means; it may have been replaced since.
    pub(crate) to: u64,
    /// Whether the connection is for snapshots.
    pub(crate) bulk: bool,
}

/// The answer to [`Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// Go on.
    Go,
    /// No, in words; the connection ends.
    No(String),
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    Ping,
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    TransferLeader(TransferLeaderRequest<Types>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        bytes: Vec<u8>,
    },
    /// For the leader; another node says who that is.
    Ask {
        ask: Ask,
        within_ms: u64,
    },
    /// For another node, which the asker does not reach.
    Relay {
        to: u64,
        within_ms: u64,
        /// A [`Request`].
        request: Vec<u8>,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Pong,
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    TransferLeader(TransferLeaderResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Told(Told),
    /// A [`Response`], as the other node gave it.
    Relayed(Vec<u8>),
    /// The request was not passed on and has no effect.
    NoWay(String),
    /// What became of the request is unknown.
    Failed(String),
}

/// What the leader can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Append this and say how it ended.
    Propose(Box<Entry>),
    /// Renew a session.
    Renew { node: NodeName, session: SessionId, run: RunId, renewal: u64 },
    /// An index that covers everything that was committed when this arrived.
    Index,
}

/// What the leader answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Told {
    Committed {
        index: u64,
        outcome: Outcome,
    },
    Answer(Answer),
    Index(u64),
    /// Nothing was done; perhaps this one leads.
    NotLeader {
        leader: Option<u64>,
    },
    /// The entry may be in the log, or come into it.
    Unknown(String),
    /// No majority confirmed the leader.
    NoQuorum(String),
}

pub(crate) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Sends one frame, in one piece.
pub(crate) async fn write_frame(to: &mut (impl AsyncWrite + Unpin), number: u64, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 8).map_err(|_| io::Error::other("a frame of more than 4 GiB"))?;
    let mut frame = Vec::with_capacity(body.len() + 12);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Receives one frame of at most `max` bytes; `None` where the connection ended between two frames.
///
/// Memory grows with what arrives, not with what the length promises.
pub(crate) async fn read_frame(from: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
    let length = match from.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length < 8 || length > max {
        let why = format!("a frame of {length} bytes; 8 to {max} are possible");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let number = from.read_u64().await?;
    let mut body = Vec::new();
    from.take(length as u64 - 8).read_to_end(&mut body).await?;
    if body.len() != length - 8 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((number, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_whole_and_wrong_ones_are_refused() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, 7, b"body").await.expect("writes to memory");
        write_frame(&mut bytes, 8, b"").await.expect("writes to memory");
        let mut from = bytes.as_slice();
        assert_eq!(read_frame(&mut from, 100).await.expect("whole"), Some((7, b"body".to_vec())));
        assert_eq!(read_frame(&mut from, 100).await.expect("whole"), Some((8, Vec::new())));
        assert_eq!(read_frame(&mut from, 100).await.expect("ended"), None);
        assert!(read_frame(&mut &bytes[..10], 100).await.is_err(), "cut short");
        assert!(read_frame(&mut bytes.as_slice(), 11).await.is_err(), "too long for its place");
        assert!(read_frame(&mut [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0].as_slice(), 100).await.is_err(), "too short");
        assert!(read_frame(&mut [0xff; 100].as_slice(), CONTROL_FRAME_MAX).await.is_err(), "garbage");
    }
}
