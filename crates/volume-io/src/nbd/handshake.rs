//! From the greeting to the choice of an export.

use bytes::{Buf, BufMut, BytesMut};

use super::wire::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, BLOCK_MIN, BLOCK_PREFERRED, IHAVEOPT, NBDMAGIC, OPTION_REPLY_MAGIC,
    PAYLOAD_MAX, handshake_flag, info, option, reply, transmission_flag,
};

/// Bytes in the longest option this server reads: a name of 4096 bytes with many queries.
const OPTION_MAX: u32 = 64 << 10;

/// An export that can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo<T> {
    /// What the caller knows it by.
    pub target: T,
    /// In bytes.
    pub size: u64,
    /// For people.
    pub description: String,
}

/// Why an export cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// Never, by this name (`NBD_REP_ERR_UNKNOWN`).
    Never(String),
    /// Not now; another try may work (`NBD_REP_ERR_POLICY`).
    NotNow(String),
}

/// Where the handshake looks exports up.
pub trait Exports {
    /// What the caller knows an export by.
    type Target: Clone;
    /// The names for a list.
    fn list(&self) -> Vec<String>;
    /// The export called `name`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], whose text the initiator shows.
    fn find(&self, name: &str) -> Result<ExportInfo<Self::Target>, Unavailable>;
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<T> {
    /// The chosen export.
    pub target: T,
    /// Its size in bytes.
    pub size: u64,
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation` was chosen.
    pub block_status: bool,
}

/// How far the handshake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// More bytes are needed.
    Waiting,
    /// Transmission begins with the next byte.
    Chosen(Session<T>),
    /// The initiator said good-bye.
    Aborted,
}

/// Why the connection must end. Replies made so far may still be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Client flags that the protocol does not know.
    #[error("unknown client flags {0:#x}")]
    Flags(u32),
    /// An option without its magic.
    #[error("an option begins with {0:#018x} instead of IHAVEOPT")]
    Magic(u64),
    /// An option that no honest initiator sends.
    #[error("option {option} is {length} bytes long, more than {OPTION_MAX}")]
    TooLong {
        /// Its number.
        option: u32,
        /// Its declared length.
        length: u32,
    },
    /// `NBD_OPT_EXPORT_NAME` cannot be refused otherwise.
    #[error("export `{name}`: {why}")]
    Export {
        /// What was asked for.
        name: String,
        /// Why not.
        why: String,
    },
}

/// The server's side of the handshake of one connection.
///
/// [`Handshake::new`] writes the greeting; then call [`Handshake::advance`] whenever bytes have come.
#[derive(Debug)]
pub struct Handshake {
    greeted: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was set.
    context_for: Option<String>,
}

impl Handshake {
    /// Starts, with the greeting for `out`.
    #[must_use]
    pub fn new(out: &mut Vec<u8>) -> Self {
        out.put_u64(NBDMAGIC);
        out.put_u64(IHAVEOPT);
        out.put_u16(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        Self { greeted: false, no_zeroes: false, structured: false, context_for: None }
    }

    /// Takes what it can from `input` and appends the answers to `out`.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]: send `out`, then end the connection.
    pub fn advance<E: Exports>(
        &mut self,
        input: &mut BytesMut,
        exports: &E,
        out: &mut Vec<u8>,
    ) -> Result<Progress<E::Target>, HandshakeError> {
        if !self.greeted {
            if input.len() < 4 {
                return Ok(Progress::Waiting);
            }
            let flags = input.get_u32();
            if flags & !u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES) != 0 {
                return Err(HandshakeError::Flags(flags));
            }
            self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
            self.greeted = true;
        }
        loop {
            if input.len() < 16 {
                return Ok(Progress::Waiting);
            }
            let mut head = &input[..16];
            let (magic, option, length) = (head.get_u64(), head.get_u32(), head.get_u32());
            if magic != IHAVEOPT {
                return Err(HandshakeError::Magic(magic));
            }
            if length > OPTION_MAX {
                return Err(HandshakeError::TooLong { option, length });
            }
            if input.len() < 16 + length as usize {
                return Ok(Progress::Waiting);
            }
            input.advance(16);
            let data = input.split_to(length as usize);
            match self.option(option, &data, exports, out)? {
                Progress::Waiting => {}
                ended => return Ok(ended),
            }
        }
    }

    fn option<E: Exports>(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &E,
        out: &mut Vec<u8>,
    ) -> Result<Progress<E::Target>, HandshakeError> {
        match option {
            option::EXPORT_NAME => {
                let name = String::from_utf8_lossy(data);
                let export = exports.find(&name).map_err(|why| HandshakeError::Export {
                    name: name.chars().take(80).collect(),
                    why: why.text().into(),
                })?;
                out.put_u64(export.size);
                out.put_u16(self.flags());
                if !self.no_zeroes {
                    out.put_bytes(0, 124);
                }
                return Ok(Progress::Chosen(self.session(&name, export)));
            }
            option::ABORT => {
                answer(out, option, reply::ACK, &[]);
                return Ok(Progress::Aborted);
            }
            option::LIST if data.is_empty() => {
                for name in exports.list() {
                    let mut entry = Vec::new();
                    put_string(&mut entry, &name);
                    answer(out, option, reply::SERVER, &entry);
                }
                answer(out, option, reply::ACK, &[]);
            }
            option::INFO | option::GO => match parse_info(data) {
                None => answer(out, option, reply::ERR_INVALID, b"malformed request for information"),
                Some((name, wanted)) => match exports.find(&name) {
                    Err(why) => answer(out, option, why.code(), why.text().as_bytes()),
                    Ok(export) => {
                        self.inform(out, option, &name, &export, &wanted);
                        answer(out, option, reply::ACK, &[]);
                        if option == option::GO {
                            return Ok(Progress::Chosen(self.session(&name, export)));
                        }
                    }
                },
            },
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                answer(out, option, reply::ACK, &[]);
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(out, option, data, exports),
            option::LIST | option::STRUCTURED_REPLY => {
                answer(out, option, reply::ERR_INVALID, b"this option takes no data");
            }
            _ => answer(out, option, reply::ERR_UNSUP, b"unknown option"),
        }
        Ok(Progress::Waiting)
    }

    fn session<T>(&self, name: &str, export: ExportInfo<T>) -> Session<T> {
        Session {
            target: export.target,
            size: export.size,
            structured: self.structured,
            block_status: self.structured && self.context_for.as_deref() == Some(name),
        }
    }

    fn flags(&self) -> u16 {
        use transmission_flag as flag;
        let df = if self.structured { flag::SEND_DF } else { 0 };
        // MULTI_CONN: a flush covers every replied write of the group, whichever connection it came on.
        flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::SEND_FAST_ZERO
            | flag::CAN_MULTI_CONN
            | df
    }

    fn inform<T>(&self, out: &mut Vec<u8>, option: u32, name: &str, export: &ExportInfo<T>, wanted: &[u16]) {
        let mut data = Vec::new();
        data.put_u16(info::EXPORT);
        data.put_u64(export.size);
        data.put_u16(self.flags());
        answer(out, option, reply::INFO, &data);
        // Sent unasked: no initiator is harmed by knowing the limits.
        data.clear();
        data.put_u16(info::BLOCK_SIZE);
        data.put_u32(BLOCK_MIN);
        data.put_u32(BLOCK_PREFERRED);
        data.put_u32(PAYLOAD_MAX);
        answer(out, option, reply::INFO, &data);
        for (kind, text) in [(info::NAME, name), (info::DESCRIPTION, export.description.as_str())] {
            if wanted.contains(&kind) {
                data.clear();
                data.put_u16(kind);
                data.put_slice(text.as_bytes());
                answer(out, option, reply::INFO, &data);
            }
        }
    }

    fn contexts<E: Exports>(&mut self, out: &mut Vec<u8>, option: u32, data: &[u8], exports: &E) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.context_for = None;
            if !self.structured {
                return answer(out, option, reply::ERR_INVALID, b"structured replies must be agreed first");
            }
        }
        let Some((name, queries)) = parse_queries(data) else {
            return answer(out, option, reply::ERR_INVALID, b"malformed list of contexts");
        };
        if let Err(why) = exports.find(&name) {
            return answer(out, option, why.code(), why.text().as_bytes());
        }
        // A list without queries asks for everything, and `base:` for everything of that namespace.
        let all = !set && (queries.is_empty() || queries.iter().any(|query| query == "base:"));
        if all || queries.iter().any(|query| query == BASE_ALLOCATION) {
            let mut entry = Vec::new();
            entry.put_u32(if set { BASE_ALLOCATION_ID } else { 0 });
            entry.put_slice(BASE_ALLOCATION.as_bytes());
            answer(out, option, reply::META_CONTEXT, &entry);
            if set {
                self.context_for = Some(name);
            }
        }
        answer(out, option, reply::ACK, &[]);
    }
}

impl Unavailable {
    fn text(&self) -> &str {
        match self {
            Self::Never(text) | Self::NotNow(text) => text,
        }
    }

    fn code(&self) -> u32 {
        match self {
            Self::Never(_) => reply::ERR_UNKNOWN,
            Self::NotNow(_) => reply::ERR_POLICY,
        }
    }
}

fn answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(u32::try_from(data.len()).expect("option replies are short"));
    out.put_slice(data);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("names are short"));
    out.put_slice(text.as_bytes());
}

fn take_string(data: &mut &[u8]) -> Option<String> {
    if data.len() < 4 {
        return None;
    }
    let length = data.get_u32() as usize;
    let text = data.get(..length)?;
    data.advance(length);
    String::from_utf8(text.to_vec()).ok()
}

fn parse_info(mut data: &[u8]) -> Option<(String, Vec<u16>)> {
    let name = take_string(&mut data)?;
    if data.len() < 2 {
        return None;
    }
    let count = usize::from(data.get_u16());
    if data.len() != count * 2 {
        return None;
    }
    Some((name, (0..count).map(|_| data.get_u16()).collect()))
}

fn parse_queries(mut data: &[u8]) -> Option<(String, Vec<String>)> {
    let name = take_string(&mut data)?;
    if data.len() < 4 {
        return None;
    }
    // The count is the initiator's word; every query takes at least four bytes of what really came.
    let count = data.get_u32() as usize;
    if count > data.len() / 4 {
        return None;
    }
    let queries = (0..count).map(|_| take_string(&mut data)).collect::<Option<Vec<_>>>()?;
    data.is_empty().then_some((name, queries))
}
