//! `tandem init`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tandem_base::{ClusterId, NodeName, RunId};
use tandem_cluster::{Admission, Command, Topology};

use crate::{
    Config, ControlPlane, FoundError, JoinToken, OpenError, Paths,
    control::{fill, random},
    identity::{self, Identity},
    link::with_port,
    raft::Peer,
    store,
};

/// What a cluster begins with.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The first node's data directory.
    pub data: PathBuf,
    /// The first node: a voter of the plan.
    pub node: NodeName,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// The plan's text.
    pub plan: String,
    /// What the plan means.
    pub topology: Topology,
    /// Where else joining machines can ask, `host:port`; the first node's own address comes first by itself.
    pub addresses: Vec<String>,
}

/// A cluster that exists.
#[derive(Debug, Clone)]
pub struct Founded {
    /// Its id.
    pub cluster: ClusterId,
    /// For the other machines.
    pub token: JoinToken,
}

/// Makes the cluster's certificate authority, the first node's identity and store, and the first entry of the log.
/// Afterwards the agent can be started on this node.
///
/// # Errors
///
/// [`FoundError`]; [`FoundError::Exists`] where the node already has an identity or a store. After any error neither
/// is there.
pub async fn found(founding: Founding) -> Result<Founded, FoundError> {
    let paths = Paths::below(&founding.data);
    for path in [&paths.identity, &paths.store] {
        if path.exists() {
            return Err(FoundError::Exists { path: path.clone() });
        }
    }
    let made = make(&founding, &paths).await;
    if made.is_err() {
        remove(&paths.identity, &paths.store);
    }
    made
}

/// What a failed try leaves behind is of no use, and only in the way of the next.
fn remove(identity: &Path, store: &Path) {
    for (path, gone) in [(identity, std::fs::remove_dir_all(identity)), (store, std::fs::remove_file(store))] {
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "what the failed attempt made is left behind");
        }
    }
}

async fn make(founding: &Founding, paths: &Paths) -> Result<Founded, FoundError> {
    let Founding { data, node, topology, .. } = founding;
    let mut bytes = [0; 16];
    fill(&mut bytes);
    let cluster = ClusterId(u128::from_be_bytes(bytes));
    let address = with_port(&founding.address);
    let ca = identity::create_authority(cluster)?;
    let (key, request) = identity::request()?;
    let certificate = identity::issue(&ca, cluster, node, &request)?;
    identity::private_directory(data).map_err(|cause| FoundError::Write { path: data.clone(), cause })?;
    Identity::write(&paths.identity, &ca.cert_pem, &certificate, &key)?;
    let raft_id = random();
    store::create(&paths.store, cluster, node, raft_id).map_err(OpenError::from)?;

    let mut secret = [0; 16];
    fill(&mut secret);
    let mut addresses = vec![address.clone()];
    addresses.extend(founding.addresses.iter().map(|other| with_port(other)).filter(|other| *other != address));
    let token = JoinToken { cluster, fingerprint: identity::fingerprint(&ca.cert_pem)?, secret, addresses };

    let control = ControlPlane::open(Config::new(data, RunId(random()), topology.timings)).await?;
    let begun = begin(&control, founding, ca, &token, address, raft_id).await;
    control.shutdown().await;
    begun.map(|()| Founded { cluster, token })
}

async fn begin(
    control: &ControlPlane,
    founding: &Founding,
    ca: tandem_cluster::CertificateAuthority,
    token: &JoinToken,
    address: String,
    raft_id: u64,
) -> Result<(), FoundError> {
    let node = founding.node.clone();
    let peer = Peer { node: node.clone(), address: address.clone() };
    let first = BTreeMap::from([(raft_id, peer)]);
    let refused = |error: String| OpenError::Raft { why: error };
    control.core.raft.initialize(first).await.map_err(|error| refused(error.to_string()))?;
    let command = Command::Found {
        cluster: token.cluster,
        plan: founding.plan.clone(),
        topology: Box::new(founding.topology.clone()),
        ca,
        first: Admission { node, address, raft_id },
        token_digest: token.digest(),
    };
    let committed = control.propose(command).await?;
    committed.outcome.into_result().map_err(FoundError::Refused)
}
