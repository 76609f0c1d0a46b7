//! For whom an incoming connection is, found without taking a byte from it.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{net::TcpStream, time::timeout};

/// Longest ClientHello that is looked at. Those of our own clients have some 400 bytes.
const BYTES_MAX: usize = 8 * 1024;
/// How long a peer may take to send it.
const WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at a ClientHello that came in parts; a socket with unread bytes cannot be waited on for more.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why a connection is for nobody. It is to be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeekError {
    /// The connection failed.
    #[error("the connection failed before its first message")]
    Io(#[source] io::Error),
    /// The peer went away.
    #[error("the peer closed the connection before its first message was whole")]
    Closed,
    /// The peer is too slow.
    #[error("the peer sent no whole first message within {WITHIN:?}")]
    TooSlow,
    /// The first message is too long.
    #[error("the peer's first message is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// It does not speak TLS.
    #[error("the peer does not speak TLS: {why}")]
    NotTls {
        /// What rustls says.
        why: String,
    },
}

/// The application protocols that the client at the other end offers, in its order; none where it names none.
///
/// Only looks (`MSG_PEEK`, recv(2)): whoever gets the connection next finds every byte in it.
///
/// # Errors
///
/// [`PeekError`] within [`WITHIN`] at the latest.
pub async fn peek(stream: &TcpStream) -> Result<Vec<Vec<u8>>, PeekError> {
    timeout(WITHIN, look(stream)).await.unwrap_or(Err(PeekError::TooSlow))
}

async fn look(stream: &TcpStream) -> Result<Vec<Vec<u8>>, PeekError> {
    let mut bytes = vec![0; BYTES_MAX];
    let mut seen = 0;
    loop {
        let found = stream.peek(&mut bytes).await.map_err(PeekError::Io)?;
        if found == 0 || (found == seen && closed(stream)) {
            return Err(PeekError::Closed);
        }
        if found > seen {
            seen = found;
            if let Some(protocols) = parse(&bytes[..found])? {
                return Ok(protocols);
            }
            if found == BYTES_MAX {
                return Err(PeekError::TooLong);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether the peer has ended its side: then no more will come after the bytes that are there.
fn closed(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut wanted = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// `None`: the ClientHello is not whole yet.
fn parse(mut bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, PeekError> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).map_err(|error| PeekError::NotTls { why: error.to_string() })?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Ok(Some(hello.alpn().map_or_else(Vec::new, |names| names.map(<[u8]>::to_vec).collect())));
            }
            Err((error, _alert)) => return Err(PeekError::NotTls { why: error.to_string() }),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        (client, listener.accept().await.expect("accepts").0)
    }

    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let config = crate::identity::pinned_client(tandem_base::ClusterId(1), [0; 32]).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = "r1.example".try_into().expect("a name");
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("writes to memory");
        bytes
    }

    #[tokio::test]
    async fn protocols_are_seen_and_no_byte_is_taken() {
        let (mut client, mut server) = pair().await;
        let sent = hello(&[b"tandem-volume/1:ledger", b"h2"]);
        // In two parts, so that the first look finds an unfinished message.
        client.write_all(&sent[..20]).await.expect("sends");
        let rest = sent[20..].to_vec();
        let writer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.write_all(&rest).await.expect("sends");
            client
        });
        assert_eq!(peek(&server).await.expect("is TLS"), [b"tandem-volume/1:ledger".to_vec(), b"h2".to_vec()]);
        let _open = writer.await.expect("wrote");
        let mut found = vec![0; sent.len()];
        server.read_exact(&mut found).await.expect("all is still there");
        assert_eq!(found, sent);
    }

    #[tokio::test]
    async fn a_client_without_protocols_offers_none() {
        let (mut client, server) = pair().await;
        client.write_all(&hello(&[])).await.expect("sends");
        assert_eq!(peek(&server).await.expect("is TLS"), Vec::<Vec<u8>>::new());
    }

    #[tokio::test]
    async fn garbage_and_early_ends_are_refused() {
        for (garbage, what) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not TLS"),
            (vec![0; 4096], "not TLS"),
            (b"NBDMAGICIHAVEOPT".to_vec(), "not TLS"),
            (vec![22, 3, 1, 0xff, 0xff, 1, 2, 3], "not TLS"),
        ] {
            let (mut client, server) = pair().await;
            client.write_all(&garbage).await.expect("sends");
            let error = peek(&server).await.expect_err(what);
            assert!(matches!(error, PeekError::NotTls { .. }), "{garbage:?}: {error:?}");
        }
        let (mut client, server) = pair().await;
        client.write_all(&hello(&[b"x"])[..30]).await.expect("sends");
        drop(client);
        assert!(matches!(peek(&server).await, Err(PeekError::Closed)));
        let (client, server) = pair().await;
        drop(client);
        assert!(matches!(peek(&server).await, Err(PeekError::Closed)));
    }
}
