//! TLS configurations of a node, and who is at the other end.

use std::sync::Arc;

use rustls::{
    ClientConfig, CommonState, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use tandem_base::NodeName;

use super::{Identity, dns_name, named};

/// Why the other end of a TLS connection is nobody of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The certificate names no node.
    #[error("the peer's certificate names no node: {why}")]
    NoName {
        /// In words.
        why: String,
    },
    /// A node of another cluster.
    #[error("the peer is `{node}` of another cluster")]
    OtherCluster {
        /// As its certificate says.
        node: NodeName,
    },
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Identity {
    pub(super) fn certified_key(&self) -> Result<CertifiedKey, rustls::Error> {
        CertifiedKey::from_der(vec![self.certificate.clone()], self.key.clone_key(), &provider())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("the authority was parsed when the identity was loaded");
        Arc::new(roots)
    }

    /// For incoming connections with `alpn`: TLS 1.3 only, and the client must show a certificate of this cluster.
    ///
    /// # Errors
    ///
    /// Those of rustls.
    pub fn server_config(&self, alpn: &[u8]) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        // A resumed connection would skip the certificates for as long as a ticket lives.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For connections of machines that have no certificate yet; shows the authority's certificate too, for them to
    /// compare with their token.
    pub(crate) fn join_server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone(), self.ca.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![crate::ALPN_JOIN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For outgoing connections with `alpn`: TLS 1.3 only, both sides show certificates. Connect to
    /// [`server_name`](Self::server_name) of the node that is meant.
    ///
    /// # Errors
    ///
    /// Those of rustls.
    pub fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// What to ask TLS for when connecting to `node`.
    #[must_use]
    pub fn server_name(&self, node: &NodeName) -> ServerName<'static> {
        ServerName::try_from(dns_name(node, self.cluster)).expect("a node's name is a DNS label")
    }

    /// The node at the other end of an established connection.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where it is none of this cluster.
    pub fn peer(&self, connection: &CommonState) -> Result<NodeName, PeerError> {
        let certificate =
            connection.peer_certificates().and_then(|chain| chain.first()).ok_or(PeerError::NoCertificate)?;
        let (node, cluster) = named(certificate).map_err(|why| PeerError::NoName { why })?;
        if cluster == self.cluster { Ok(node) } else { Err(PeerError::OtherCluster { node }) }
    }
}
