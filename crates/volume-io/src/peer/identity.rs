//! Who we are to our peers, and how we know who they are.

use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tandem_base::{ClusterId, GroupName, NodeName};

/// Why a node's identity cannot be used. The cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file is missing or not PEM.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: io::Error,
    },
    /// The files do not belong together, or are of a kind that TLS 1.3 does not take.
    #[error("the certificates in {directory} cannot be used")]
    Unusable {
        /// Where they are.
        directory: PathBuf,
        /// What is wrong with them.
        #[source]
        cause: rustls::Error,
    },
}

/// Makes the TLS side of connections. Nothing is resumed: connections are few and long.
pub(crate) struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    cluster: ClusterId,
    alpn: Vec<u8>,
}

impl Identity {
    /// Reads `ca.pem`, `node.pem` and `node.key` of `directory`.
    pub(crate) fn load(directory: &Path, cluster: ClusterId, group: &GroupName) -> Result<Self, IdentityError> {
        let unusable = |cause| IdentityError::Unusable { directory: directory.to_path_buf(), cause };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&directory.join("ca.pem"))? {
            roots.add(certificate).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&directory.join("node.pem"))?;
        let key_path = directory.join("node.key");
        let key = PrivateKeyDer::from_pem_file(&key_path)
            .map_err(|cause| IdentityError::File { path: key_path, cause: io::Error::other(cause) })?;
        let provider = Arc::new(ring::default_provider());
        let alpn = format!("tandem-volume/1:{group}").into_bytes();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|cause| unusable(rustls::Error::General(cause.to_string())))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = vec![alpn.clone()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.alpn_protocols = vec![alpn.clone()];
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server), cluster, alpn })
    }

    /// Our side of a connection that we make to `peer`: its certificate must carry that name.
    pub(crate) fn connect(&self, peer: &NodeName) -> Result<Connection, rustls::Error> {
        let name = format!("{peer}.{}.tandem", self.cluster);
        let name = ServerName::try_from(name).map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(ClientConnection::new(Arc::clone(&self.client), name)?.into())
    }

    /// Our side of a connection that a peer made to us.
    pub(crate) fn accept(&self) -> Result<Connection, rustls::Error> {
        Ok(ServerConnection::new(Arc::clone(&self.server))?.into())
    }

    /// Who is at the other end, once the handshake is over; the reason in words where that is nobody we know.
    pub(crate) fn peer(&self, connection: &Connection) -> Result<NodeName, String> {
        if connection.alpn_protocol() != Some(&self.alpn) {
            return Err("it did not ask for this group".into());
        }
        let certificate = connection.peer_certificates().and_then(<[_]>::first).ok_or("it showed no certificate")?;
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
        let suffix = format!(".{}.tandem", self.cluster);
        certificate
            .valid_dns_names()
            .find_map(|name| NodeName::new(name.strip_suffix(&suffix)?).ok())
            .ok_or_else(|| format!("its certificate names no node of cluster {}", self.cluster))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let failed = |cause| IdentityError::File { path: path.to_path_buf(), cause };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| failed(io::Error::other(cause)))?;
    if list.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it")));
    }
    Ok(list)
}
