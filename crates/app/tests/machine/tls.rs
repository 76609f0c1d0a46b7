//! TLS by somebody who does not care whom he talks to.

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tandem_cluster_io::identity::Identity;

/// Believes everybody.
#[derive(Debug)]
struct Careless;

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects to `address` for `alpn`, showing the certificate in `identity`, or none. The handshake is done as far as this
/// side can tell: with TLS 1.3 the server judges the certificate afterwards.
pub(crate) fn connect(address: &str, alpn: &[u8], identity: Option<&Path>) -> io::Result<Tls> {
    let mut config = match identity {
        Some(identity) => {
            let identity = Identity::load(identity).map_err(io::Error::other)?;
            (*identity.client_config(alpn).map_err(io::Error::other)?).clone()
        }
        None => ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Careless))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.dangerous().set_certificate_verifier(Arc::new(Careless));
    let name = "nobody.invalid".try_into().expect("a valid DNS name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut tls = StreamOwned::new(connection, socket);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// What comes until the other side ends the connection.
pub(crate) fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        assert!(!timed_out, "the other side keeps the connection");
    }
    answer
}

/// Sends what the other side still takes.
pub(crate) fn send(stream: &mut impl Write, bytes: &[u8]) {
    // A connection that was refused meanwhile takes nothing.
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
}
