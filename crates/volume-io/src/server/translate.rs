//! From the protocol's requests to the engine's.

use tandem_volume::{Request, RequestError};

use super::served::Target;
use crate::{
    disk::Shared,
    nbd::{Command, CommandFlags, Errno, PAYLOAD_MAX, Reply, RequestHeader, Session},
};

/// Extents in one block status reply.
const EXTENTS_MAX: usize = 1024;

/// What comes of a request.
pub(super) enum Step {
    /// The engine carries it out; so many bytes of memory it holds.
    Submit { what: Request, bytes: usize },
    /// It is answered here; `gated` answers leave only under the lease.
    Answer { reply: Reply, gated: bool },
    /// The initiator is done.
    Close,
}

/// The protocol's number for an error of the engine.
pub(super) fn errno(error: &RequestError) -> Errno {
    match error {
        RequestError::Superseded => Errno::Shutdown,
        RequestError::OutOfRange => Errno::Invalid,
        _ => Errno::Io,
    }
}

/// What a request means for the engine, or its answer where the engine is not needed.
pub(super) fn translate(session: &Session<Target>, request: RequestHeader, disk: &Shared) -> Step {
    use CommandFlags as Flag;
    let RequestHeader { command, flags, cookie, offset, length } = request;
    let volume = session.target.volume;
    let refuse =
        |errno, text: &str| Step::Answer { reply: Reply::error(session.structured, cookie, errno, text), gated: false };
    let known = match &command {
        Command::Read => Flag::DF | Flag::FUA,
        Command::WriteZeroes => Flag::FUA | Flag::NO_HOLE | Flag::FAST_ZERO,
        Command::BlockStatus => Flag::REQ_ONE | Flag::FUA,
        _ => Flag::FUA,
    };
    if flags.beyond(known) {
        return refuse(Errno::Invalid, "unknown flags");
    }
    let fua = flags.has(Flag::FUA);
    match command {
        Command::Disconnect => return Step::Close,
        Command::Flush => return Step::Submit { what: Request::Flush, bytes: 0 },
        Command::Unknown(kind) => return refuse(Errno::Invalid, &format!("unknown request {kind}")),
        _ => {}
    }
    let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= session.size);
    if length == 0 {
        return refuse(Errno::Invalid, "a request of no bytes");
    }
    if !inside {
        let errno =
            if matches!(command, Command::Write(_) | Command::WriteZeroes) { Errno::NoSpace } else { Errno::Invalid };
        return refuse(errno, "the range ends behind the volume");
    }
    match command {
        Command::Read if length > PAYLOAD_MAX => refuse(Errno::Overflow, "a read of more than 32 MiB"),
        Command::Read => Step::Submit { what: Request::Read { volume, offset, length }, bytes: length as usize },
        Command::Write(data) => {
            let bytes = data.len();
            Step::Submit { what: Request::Write { volume, offset, data, fua }, bytes }
        }
        Command::Trim | Command::WriteZeroes => {
            // Whether zeroing is faster than writing depends on every replica's file system: never promised.
            if flags.has(Flag::FAST_ZERO) {
                return refuse(Errno::NotSupported, "zeroing may be as slow as writing");
            }
            let keep_allocated = flags.has(Flag::NO_HOLE);
            let length = u64::from(length);
            Step::Submit { what: Request::Zero { volume, offset, length, fua, keep_allocated }, bytes: 0 }
        }
        Command::BlockStatus if !session.block_status => refuse(Errno::Invalid, "no metadata context was agreed"),
        Command::BlockStatus => {
            let count = if flags.has(Flag::REQ_ONE) { 1 } else { EXTENTS_MAX };
            match disk.extents(volume, offset, u64::from(length), count) {
                Ok(extents) => Step::Answer { reply: Reply::block_status(cookie, &extents), gated: true },
                Err(error) => refuse(Errno::Io, &format!("the image's extents: {error}")),
            }
        }
        Command::Disconnect | Command::Flush | Command::Unknown(_) => unreachable!("answered above"),
    }
}
