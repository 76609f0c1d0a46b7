//! Who is who: the cluster's certificate authority and the identity of a node.
//!
//! Every node holds `ca.pem`, `node.pem` and `node.key` in `<data>/identity/`. The certificate of node `r1` in the
//! cluster `<id>` (32 hex digits) carries the DNS name `r1.<id>.tandem`; the authority may sign no other names.

mod authority;
mod pin;
mod tls;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tandem_base::{ClusterId, NodeName};

pub use authority::{create_authority, fingerprint, issue, request};
pub(crate) use pin::pinned_client;
pub use tls::PeerError;

/// Why an identity cannot be used or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The node has none.
    #[error("this node has no identity: {path} does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Others than the owner can read the private key.
    #[error("{path} has mode {mode:04o}: others could read the node's private key")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file does not hold what its name says.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// The certificate is not from the authority beside it.
    #[error("{path} is not signed by the cluster's authority in ca.pem: {why}")]
    NotSigned {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// A certificate or request could not be made or understood.
    #[error("cannot make a certificate: {why}")]
    Certificate {
        /// In words.
        why: String,
    },
}

impl IdentityError {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("run `tandem init` on the first node, `tandem join` on every other"),
            Self::Permissions { .. } => Some("chmod 600 the key; if others may have read it, join again"),
            Self::Damaged { .. } | Self::NotSigned { .. } => Some("restore the identity directory, or join again"),
            _ => None,
        }
    }
}

/// A node's name in its cluster, with the proof of it.
#[derive(Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeName,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            cluster: self.cluster,
            node: self.node.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// The DNS name in the certificate of `node`.
#[must_use]
pub fn dns_name(node: &NodeName, cluster: ClusterId) -> String {
    format!("{node}.{cluster}.tandem")
}

/// The node and cluster that a certificate's DNS name stands for.
fn from_dns_name(name: &str) -> Option<(NodeName, ClusterId)> {
    let (node, rest) = name.split_once('.')?;
    let cluster = rest.strip_suffix(".tandem")?;
    if cluster.len() != 32 {
        return None;
    }
    Some((NodeName::new(node).ok()?, ClusterId(u128::from_str_radix(cluster, 16).ok()?)))
}

/// The one node that `certificate` names.
fn named(certificate: &CertificateDer<'_>) -> Result<(NodeName, ClusterId), String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let mut names = parsed.valid_dns_names();
    match (names.next().and_then(from_dns_name), names.next()) {
        (Some(found), None) => Ok(found),
        _ => Err("it does not carry exactly one name of the form <node>.<cluster>.tandem".into()),
    }
}

/// Whether `certificate` is valid now and signed by `ca`.
fn verify(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<(), webpki::Error> {
    let anchors = [webpki::anchor_from_trusted_cert(ca)?];
    webpki::EndEntityCert::try_from(certificate)?.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &[],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )?;
    Ok(())
}

impl Identity {
    /// Reads and checks the identity in `directory`.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; among others, a key that others can read is refused.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = |name: &str| directory.join(name);
        let key_path = path("node.key");
        let metadata = fs::metadata(&key_path).map_err(|cause| missing_or(&key_path, cause))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions { path: key_path, mode });
        }
        let read = |path: &Path| fs::read(path).map_err(|cause| missing_or(path, cause));
        let damaged = |path: &Path, why: String| IdentityError::Damaged { path: path.into(), why };
        let (ca_path, node_path) = (path("ca.pem"), path("node.pem"));
        let ca = CertificateDer::from_pem_slice(&read(&ca_path)?).map_err(|e| damaged(&ca_path, e.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(&read(&node_path)?).map_err(|e| damaged(&node_path, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?).map_err(|e| damaged(&key_path, e.to_string()))?;
        let (node, cluster) = named(&certificate).map_err(|why| damaged(&node_path, why))?;
        verify(&certificate, &ca)
            .map_err(|error| IdentityError::NotSigned { path: node_path, why: error.to_string() })?;
        let identity = Self { cluster, node, ca, certificate, key };
        identity.certified_key().map_err(|error| damaged(&key_path, error.to_string()))?;
        Ok(identity)
    }

    /// Writes an identity into `directory`, which is replaced as a whole.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Write`].
    pub fn write(directory: &Path, ca_pem: &str, node_pem: &str, key_pem: &str) -> Result<(), IdentityError> {
        let fresh = directory.with_extension("new");
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |cause| IdentityError::Write { path, cause }
        };
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(failed(&fresh))?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&fresh).map_err(failed(&fresh))?;
        for (name, text, mode) in
            [("ca.pem", ca_pem, 0o644), ("node.pem", node_pem, 0o644), ("node.key", key_pem, 0o600)]
        {
            let path = fresh.join(name);
            write_file(&path, text.as_bytes(), mode).map_err(failed(&path))?;
        }
        if directory.exists() {
            fs::remove_dir_all(directory).map_err(failed(directory))?;
        }
        fs::rename(&fresh, directory).map_err(failed(directory))?;
        sync_parent(directory).map_err(failed(directory))
    }
}

fn missing_or(path: &Path, cause: io::Error) -> IdentityError {
    if cause.kind() == io::ErrorKind::NotFound {
        IdentityError::Missing { path: path.into() }
    } else {
        IdentityError::Read { path: path.into(), cause }
    }
}

/// Makes a directory that nobody else may look into, also where it was there and open: a node's log holds the authority's
/// key, its volumes what their services wrote.
///
/// # Errors
///
/// Those of mkdir(2) and chmod(2).
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// Makes a rename in the directory above `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        _ => fs::File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
