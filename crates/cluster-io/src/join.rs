//! `tandem join`: how a machine becomes a node.
//!
//! The machine makes its key, connects to a node that is up, believes it only if it shows the authority whose
//! fingerprint is in the token, and sends the token's secret with a request for a certificate. The node has the
//! admission committed and signs. Any node can do so: the authority's key is in the log.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tandem_base::{ClusterId, NodeName};
use tandem_cluster::{Admission, Command};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    JoinToken, Paths,
    control::{Core, random},
    identity::{self, Identity, IdentityError},
    link::{is_about_certificates, with_port},
    store::{self, StoreError},
    token,
    wire::{decode, encode, read_frame, write_frame},
};

/// How long one node may take to admit a machine.
const WITHIN: Duration = Duration::from_secs(20);
/// Longest request: a certificate request has some 300 bytes.
const REQUEST_MAX: usize = 16 << 10;
/// Longest answer: certificates, and a plan.
const ANSWER_MAX: usize = 8 << 20;
const VERSION: u32 = 1;

/// What a machine asks.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The machine's data directory.
    pub data: PathBuf,
    /// Its name in the plan.
    pub node: NodeName,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// From `tandem init`.
    pub token: JoinToken,
}

/// What a machine that joined knows. Its identity and an empty store are on disk; the agent can be started.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The plan's text, as the log holds it.
    pub plan: String,
    /// The node that answered.
    pub by: NodeName,
}

/// Why a machine did not become a node. Nothing was changed on it, except where [`JoinError::Identity`] or
/// [`JoinError::Store`] say that writing failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It is one already.
    #[error("{path} exists: this machine is a node already")]
    Exists {
        /// The store, or the identity of another node or cluster.
        path: PathBuf,
    },
    /// Nobody answered.
    #[error("no node of the cluster answered: {tried}")]
    Unreachable {
        /// Each address with what happened.
        tried: String,
    },
    /// Somebody answered, but no node of the token's cluster.
    #[error("{address} answers, but it is no node of cluster {cluster}, which the token names")]
    OtherCluster {
        /// Who was asked.
        address: String,
        /// The token's cluster.
        cluster: ClusterId,
    },
    /// A node said no.
    #[error("the cluster refused: {why}")]
    Refused {
        /// In words.
        why: String,
    },
    /// The identity could not be made or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store could not be made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JoinError {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some("is the agent running there, and does the firewall let 7400/tcp through?"),
            Self::OtherCluster { .. } => {
                Some("use the token that `tandem init` printed on the first node of this very cluster")
            }
            Self::Exists { .. } => Some("start the agent; to join anew, move the data directory away first"),
            Self::Store(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            _ => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    secret: [u8; 16],
    admission: Admission,
    /// PKCS #10, DER.
    certificate: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Admitted {
        ca_pem: String,
        node_pem: String,
        plan: String,
        by: NodeName,
    },
    Refused(String),
    /// Another node may know better.
    Later(String),
}

/// Asks the token's addresses, in turn, to admit this machine.
///
/// A machine that has an identity but lost its store comes back as the same node with an empty store.
///
/// # Errors
///
/// [`JoinError`].
pub async fn join(joining: Joining) -> Result<Joined, JoinError> {
    let Joining { data, node, address, token } = joining;
    let paths = Paths::below(&data);
    if paths.store.exists() {
        return Err(JoinError::Exists { path: paths.store });
    }
    // Only a node that comes back may have an identity.
    if Identity::load(&paths.identity).is_ok_and(|own| own.cluster != token.cluster || own.node != node) {
        return Err(JoinError::Exists { path: paths.identity });
    }
    let (key, certificate) = identity::request()?;
    let raft_id = random();
    let admission = Admission { node: node.clone(), address: with_port(&address), raft_id };
    let request = Request { version: VERSION, secret: token.secret, admission, certificate };
    let mut tried = Vec::new();
    let mut other = None;
    for address in &token.addresses {
        let asked = timeout(WITHIN, ask(&token, address, &request)).await;
        let why = match asked {
            Ok(Ok(Reply::Admitted { ca_pem, node_pem, plan, by })) => {
                // Whatever was shown in the handshake: only what the token names is written down.
                if identity::fingerprint(&ca_pem)? != token.fingerprint {
                    return Err(JoinError::Refused { why: format!("{by} sent another authority than the token's") });
                }
                identity::private_directory(&data)
                    .map_err(|cause| IdentityError::Write { path: data.clone(), cause })?;
                Identity::write(&paths.identity, &ca_pem, &node_pem, &key)?;
                store::create(&paths.store, token.cluster, &node, raft_id)?;
                Identity::load(&paths.identity)?;
                return Ok(Joined { cluster: token.cluster, plan, by });
            }
            Ok(Ok(Reply::Refused(why))) => return Err(JoinError::Refused { why }),
            Ok(Ok(Reply::Later(why))) => why,
            Ok(Err(error)) => {
                if is_about_certificates(&error) {
                    other.get_or_insert(JoinError::OtherCluster { address: address.clone(), cluster: token.cluster });
                }
                error.to_string()
            }
            Err(_) => format!("nothing for {WITHIN:?}"),
        };
        tried.push(format!("{address}: {why}"));
    }
    if let Some(other) = other {
        return Err(other);
    }
    Err(JoinError::Unreachable { tried: tried.join("; ") })
}

async fn ask(token: &JoinToken, address: &str, request: &Request) -> io::Result<Reply> {
    let stream = TcpStream::connect(with_port(address)).await?;
    let config = identity::pinned_client(token.cluster, token.fingerprint).map_err(io::Error::other)?;
    // Any node may answer, so no name is asked for; the verifier looks at the authority.
    let name = "tandem-join.invalid".try_into().expect("a valid DNS name");
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    write_frame(&mut stream, 0, &encode(request)?).await?;
    let (_, reply) = read_frame(&mut stream, ANSWER_MAX).await?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
    decode(&reply)
}

/// Who lately gave wrong secrets. A secret has 128 bits, so this is only about noise in the logs and wasted work.
#[derive(Debug, Default)]
pub(crate) struct WrongSecrets(HashMap<IpAddr, (u32, Instant)>);

impl WrongSecrets {
    const WINDOW: Duration = Duration::from_secs(60);
    const MAX: u32 = 5;

    fn blocked(&self, from: IpAddr) -> bool {
        self.0.get(&from).is_some_and(|(count, since)| *count >= Self::MAX && since.elapsed() < Self::WINDOW)
    }

    fn note(&mut self, from: IpAddr) {
        self.0.retain(|_, (_, since)| since.elapsed() < Self::WINDOW);
        self.0.entry(from).or_insert((0, Instant::now())).0 += 1;
    }
}

/// Serves a machine that wants to become a node.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream) {
    let Ok(from) = stream.peer_addr().map(|address| address.ip()) else { return };
    let served = async {
        let mut stream = TlsAcceptor::from(Arc::clone(&core.join_tls)).accept(stream).await?;
        let (_, request) =
            read_frame(&mut stream, REQUEST_MAX).await?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let reply = core.admit(from, decode(&request)?).await;
        match &reply {
            Reply::Admitted { .. } => {}
            Reply::Refused(why) | Reply::Later(why) => tracing::warn!(%from, %why, "a join was refused"),
        }
        write_frame(&mut stream, 0, &encode(&reply)?).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await
    };
    match timeout(WITHIN, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%from, %error, "a join broke off"),
        Err(_) => tracing::warn!(%from, "a join took longer than {WITHIN:?}"),
    }
}

impl Core {
    async fn admit(&self, from: IpAddr, request: Request) -> Reply {
        let Request { version, secret, admission, certificate } = request;
        if version != VERSION {
            return Reply::Refused(format!(
                "this node speaks version {VERSION} of joining, the machine version {version}"
            ));
        }
        let wrong = || self.wrong_secrets.lock().expect("no holder of this lock panics");
        if wrong().blocked(from) {
            return Reply::Refused("too many wrong tokens from this address; wait a minute".into());
        }
        let applied = match self.read(Duration::from_secs(5)).await {
            Ok(applied) => applied,
            Err(error) => return Reply::Later(error.to_string()),
        };
        let state = &applied.state;
        let Some(digest) = state.token_digest() else {
            return Reply::Refused("the cluster takes no new nodes: its token was withdrawn".into());
        };
        // The digests of both are compared, so that the time taken says nothing of the secret.
        if token::sha256(token::digest(&secret).as_bytes()) != token::sha256(digest.as_bytes()) {
            wrong().note(from);
            return Reply::Refused("the token's secret is wrong".into());
        }
        let node = admission.node.clone();
        if !state.topology().nodes.contains_key(&node) {
            let names: Vec<&str> = state.topology().nodes.keys().map(NodeName::as_str).collect();
            return Reply::Refused(format!("the plan has no node `{node}`; it has {}", names.join(", ")));
        }
        let again = state.members().get(&node).is_some_and(|member| member.raft_id == admission.raft_id);
        if state.live_run(&node).is_some() && !again {
            return Reply::Refused(format!(
                "`{node}` is a live node already; if that machine is gone, try again once its session has expired"
            ));
        }
        let (Some(ca), Some(cluster)) = (state.ca(), state.cluster()) else {
            return Reply::Later("this node does not know the cluster's authority yet".into());
        };
        let node_pem = match identity::issue(ca, cluster, &node, &certificate) {
            Ok(pem) => pem,
            Err(error) => return Reply::Refused(error.to_string()),
        };
        match self.propose(Command::Admit(admission), Duration::from_secs(5)).await {
            Ok(committed) => match committed.outcome.into_result() {
                Ok(()) => Reply::Admitted {
                    ca_pem: ca.cert_pem.clone(),
                    node_pem,
                    plan: state.plan().to_owned(),
                    by: self.identity.node.clone(),
                },
                Err(refusal) => Reply::Refused(refusal.to_string()),
            },
            Err(error) => Reply::Later(error.to_string()),
        }
    }
}
