//! A small NBD client: what a well-behaved initiator does, and the bytes for one that is not.
//!
//! Source: the NBD protocol, <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_ERROR: u32 = 1 << 31;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;

/// A connection that may ask.
pub(crate) struct Nbd {
    pub(crate) stream: UnixStream,
    next: u64,
}

impl Nbd {
    pub(crate) fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        // Fixed newstyle, and no zeroes behind the old reply.
        stream.write_all(&3u32.to_be_bytes())?;
        stream.write_all(&option(OPT_GO, &go(export)))?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let kind = u32::from_be_bytes(head[12..16].try_into().expect("four bytes"));
            let mut data = vec![0; u32::from_be_bytes(head[16..].try_into().expect("four bytes")) as usize];
            stream.read_exact(&mut data)?;
            match kind {
                REP_ACK => return Ok(Self { stream, next: 1 }),
                _ if kind & REP_ERROR != 0 => return Err(io::Error::other(String::from_utf8_lossy(&data))),
                _ => {}
            }
        }
    }

    /// Connects once the volume is served there.
    pub(crate) fn connect_when_served(socket: &Path, export: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match Self::connect(socket, export) {
                Ok(nbd) => return nbd,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", socket.display()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks, and returns the error number of the reply, with the data of a good read.
    pub(crate) fn ask(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<(u32, Vec<u8>)> {
        let cookie = self.next;
        self.next += 1;
        self.stream.write_all(&request(kind, cookie, offset, length, data))?;
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], REPLY_MAGIC.to_be_bytes(), "a simple reply");
        assert_eq!(head[8..], cookie.to_be_bytes(), "one request at a time");
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let mut data = vec![0; if kind == READ && error == 0 { length as usize } else { 0 }];
        self.stream.read_exact(&mut data)?;
        Ok((error, data))
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        good(self.ask(WRITE, offset, data.len() as u32, data)?).map(drop)
    }

    pub(crate) fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        good(self.ask(READ, offset, length, &[])?)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        good(self.ask(FLUSH, 0, 0, &[])?).map(drop)
    }
}

fn good((error, data): (u32, Vec<u8>)) -> io::Result<Vec<u8>> {
    if error == 0 { Ok(data) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

/// An option with its data.
pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The data of `NBD_OPT_GO`.
pub(crate) fn go(export: &str) -> Vec<u8> {
    let mut bytes = (export.len() as u32).to_be_bytes().to_vec();
    bytes.extend(export.as_bytes());
    bytes.extend(0u16.to_be_bytes());
    bytes
}

/// A request with its payload.
pub(crate) fn request(kind: u16, cookie: u64, offset: u64, length: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}
