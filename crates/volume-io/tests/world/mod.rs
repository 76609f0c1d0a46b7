//! Two or three volume servers on this machine as real processes, with a register of their own instead of the cluster's
//! log, driven through the same control sockets as by the agent.

#![allow(dead_code, reason = "every test file uses its part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tandem_base::{
    ByteSize, Change, ClusterId, Configuration, Epoch, GroupName, Instant as BootInstant, NodeName, OpenId, Primary,
    Proposal,
};
use tandem_volume_io::{
    control::{Client, FromServer, Status, ToServer},
    server::{Ack, ServerConfig},
};
use tempfile::TempDir;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x7a11);
pub(crate) const VOLUME: &str = "ledger";
pub(crate) const SIZE: u64 = 32 << 20;
/// Everything that a test waits for comes within this time or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a test's names are right")
}

/// The `volume` example next to this test's own binary.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    target.join("examples/volume")
}

/// What stands for the cluster's log.
#[derive(Default)]
struct Register {
    configuration: Configuration,
    /// Nodes whose session has expired, or that released.
    expired: BTreeSet<NodeName>,
    /// Nodes that the register hears and that get leases.
    reachable: BTreeSet<NodeName>,
}

impl Register {
    fn opened(&mut self, node: &NodeName, open: OpenId) {
        let configuration = &mut self.configuration;
        if configuration.epoch.number == 0 {
            configuration.in_sync.insert(node.clone(), open);
        } else if configuration.in_sync.get(node).is_some_and(|known| *known != open) {
            if configuration.in_sync.len() == 1 {
                configuration.in_sync.insert(node.clone(), open);
            } else {
                configuration.in_sync.remove(node);
            }
            if configuration.primary.as_ref().is_some_and(|primary| primary.node == *node) {
                configuration.primary = None;
            }
            configuration.epoch = Epoch { number: configuration.epoch.number + 1, tag: open.0 };
        }
    }

    fn propose(&mut self, proposal: &Proposal) {
        let current = &self.configuration;
        if proposal.expected != current.epoch {
            return;
        }
        let mut next = current.clone();
        let is_primary = current.is_primary(&proposal.node, proposal.open);
        match &proposal.change {
            Change::Promote => {
                let held = current.primary.as_ref().is_some_and(|primary| !self.expired.contains(&primary.node));
                if held || !current.is_member(&proposal.node, proposal.open) {
                    return;
                }
                next.in_sync.retain(|node, _| !self.expired.contains(node));
                next.primary =
                    Some(Primary { node: proposal.node.clone(), open: proposal.open, promotion: proposal.result() });
            }
            Change::Shrink(names) if is_primary => next.in_sync.retain(|node, _| !names.contains(node)),
            Change::Grow { node, open } if is_primary => {
                next.in_sync.insert(node.clone(), *open);
            }
            Change::Release if is_primary => next.primary = None,
            _ => return,
        }
        next.epoch = proposal.result();
        self.configuration = next;
    }
}

/// What a server said, with the client that reaches it now.
#[derive(Default)]
struct Heard {
    client: Option<Client>,
    log: Vec<FromServer>,
    serving: Option<(Epoch, PathBuf)>,
    status: Option<Status>,
}

pub(crate) struct Node {
    pub(crate) config: ServerConfig,
    pub(crate) child: Mutex<Option<Child>>,
    pub(crate) peer_address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) nodes: BTreeMap<NodeName, Arc<Node>>,
    register: Arc<Mutex<Register>>,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// Makes certificates, sockets and directories for `names`, and starts a server for each.
    pub(crate) fn start(names: &[&str]) -> Self {
        let world = Self::prepare(names, Ack::Memory);
        for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
            world.spawn(node.as_str());
        }
        for node in world.nodes.values() {
            world.wait("every server to open", || {
                let heard = node.heard.lock().unwrap();
                heard.log.iter().any(|message| matches!(message, FromServer::Opened { .. }))
            });
        }
        world
    }

    /// Everything but the servers.
    pub(crate) fn prepare(names: &[&str], ack: Ack) -> Self {
        let dir = tempfile::Builder::new().prefix("tv").tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let register = Arc::new(Mutex::new(Register::default()));
        let authority = Authority::new();
        let listeners: Vec<_> = names
            .iter()
            .map(|text| (name(text), TcpListener::bind("127.0.0.1:0").expect("a port on loopback")))
            .collect();
        let addresses: BTreeMap<_, _> =
            listeners.iter().map(|(node, listener)| (node.clone(), listener.local_addr().unwrap())).collect();
        let mut nodes = BTreeMap::new();
        for (node, listener) in listeners {
            let home = dir.path().join(node.as_str());
            authority.issue(&home.join("id"), &format!("{node}.{CLUSTER}.tandem"));
            let mut peers = addresses.clone();
            peers.remove(&node);
            let config = ServerConfig {
                cluster: CLUSTER,
                generation: 1,
                group: GroupName::new("ledger").unwrap(),
                node: node.clone(),
                peers,
                volumes: vec![(VOLUME.parse().unwrap(), ByteSize::new(SIZE))],
                ack,
                peer_timeout: tandem_base::Duration::from_secs(1),
                directory: home.join("data"),
                identity: home.join("id"),
                control_socket: home.join("control.sock"),
                nbd_socket: home.join("nbd.sock"),
                allow_faults: true,
            };
            let heard = Arc::new(Mutex::new(Heard::default()));
            register.lock().unwrap().reachable.insert(node.clone());
            listener.set_nonblocking(true).unwrap();
            runtime.spawn(pass_sockets(listener, Arc::clone(&heard)));
            runtime.spawn(agent(config.clone(), Arc::clone(&heard), Arc::clone(&register)));
            let address = addresses[&node];
            nodes.insert(node, Arc::new(Node { config, child: Mutex::new(None), peer_address: address, heard }));
        }
        Self { dir, nodes, register, runtime }
    }

    pub(crate) fn node(&self, node: &str) -> &Arc<Node> {
        &self.nodes[&name(node)]
    }

    pub(crate) fn spawn(&self, node: &str) {
        let node = self.node(node);
        *node.heard.lock().unwrap() = Heard::default();
        let config = serde_json::to_string(&node.config).unwrap();
        let child = Command::new(program())
            .args(["serve", &config])
            .stdin(Stdio::null())
            .spawn()
            .expect("the example is built");
        *node.child.lock().unwrap() = Some(child);
        self.register.lock().unwrap().expired.remove(&node.config.node);
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, node: &str) {
        if let Some(mut child) = self.node(node).child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.node(node).heard.lock().unwrap().serving = None;
    }

    /// The session of `node` ends: it gets no lease any more, and others may be promoted.
    pub(crate) fn expire(&self, node: &str) {
        let mut register = self.register.lock().unwrap();
        register.expired.insert(name(node));
        register.reachable.remove(&name(node));
    }

    /// `node` gets no lease any more, and its session is not expired yet.
    pub(crate) fn cut(&self, node: &str) {
        self.register.lock().unwrap().reachable.remove(&name(node));
    }

    pub(crate) fn reach(&self, node: &str) {
        let mut register = self.register.lock().unwrap();
        register.expired.remove(&name(node));
        register.reachable.insert(name(node));
    }

    pub(crate) fn send(&self, node: &str, message: ToServer) {
        let client = self.node(node).heard.lock().unwrap().client.clone();
        client.expect("the server is up").send(message).expect("the server listens");
    }

    /// Orders `node` to serve and waits until it does.
    pub(crate) fn serve(&self, node: &str) -> (Epoch, PathBuf) {
        self.send(node, ToServer::Serve);
        let heard = &self.node(node).heard;
        self.wait(&format!("{node} to serve"), || heard.lock().unwrap().serving.is_some());
        heard.lock().unwrap().serving.clone().unwrap()
    }

    /// Waits until the in-sync set is exactly `names`.
    pub(crate) fn wait_in_sync(&self, names: &[&str]) {
        let wanted: BTreeSet<_> = names.iter().map(|text| name(text)).collect();
        self.wait(&format!("the in-sync set to be {names:?}"), || {
            self.configuration().in_sync.into_keys().collect::<BTreeSet<_>>() == wanted
        });
    }

    pub(crate) fn configuration(&self) -> Configuration {
        self.register.lock().unwrap().configuration.clone()
    }

    pub(crate) fn log(&self, node: &str) -> Vec<FromServer> {
        self.node(node).heard.lock().unwrap().log.clone()
    }

    pub(crate) fn status(&self, node: &str) -> Status {
        self.node(node).heard.lock().unwrap().status = None;
        self.send(node, ToServer::StatusRequest { id: 7 });
        let heard = &self.node(node).heard;
        self.wait("a status", || heard.lock().unwrap().status.is_some());
        heard.lock().unwrap().status.clone().unwrap()
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "waited too long for {what}; register: {:?}", self.configuration());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn image(&self, node: &str) -> PathBuf {
        self.node(node).config.directory.join(format!("{VOLUME}.img"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            if let Some(mut child) = node.child.lock().unwrap().take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Hands every TCP connection to the server, as the agent does once it has peeked the ALPN.
async fn pass_sockets(listener: TcpListener, heard: Arc<Mutex<Heard>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let client = heard.lock().unwrap().client.clone();
        if let (Some(client), Ok(socket)) = (client, socket.into_std()) {
            let _ = client.send_peer_socket(OwnedFd::from(socket));
        }
    }
}

fn boottime() -> BootInstant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootInstant::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// The part of one node's agent: carries proposals to the register, and its word and leases to the server.
async fn agent(config: ServerConfig, heard: Arc<Mutex<Heard>>, register: Arc<Mutex<Register>>) {
    let node = config.node.clone();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok((client, mut incoming)) = Client::connect(&config.control_socket).await else { continue };
        heard.lock().unwrap().client = Some(client.clone());
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        let mut told = None;
        let mut renewed = Instant::now() - Duration::from_secs(1);
        loop {
            tokio::select! {
                message = incoming.recv() => {
                    let Some(message) = message else { break };
                    let mut register = register.lock().unwrap();
                    let reachable = register.reachable.contains(&node);
                    match &message {
                        FromServer::Opened { open, .. } => register.opened(&node, *open),
                        FromServer::Propose(proposal) if reachable => register.propose(proposal),
                        _ => {}
                    }
                    let mut heard = heard.lock().unwrap();
                    match message {
                        FromServer::Serving { promotion, ref nbd_socket } => heard.serving = Some((promotion, nbd_socket.clone())),
                        FromServer::Ended { .. } => heard.serving = None,
                        FromServer::Status { ref status, .. } => heard.status = Some((**status).clone()),
                        _ => {}
                    }
                    if !matches!(message, FromServer::Propose(_) | FromServer::Status { .. }) {
                        heard.log.push(message);
                    }
                }
                _ = beat.tick() => {}
            }
            let (reachable, configuration) = {
                let register = register.lock().unwrap();
                (register.reachable.contains(&node), register.configuration.clone())
            };
            if reachable {
                if told.as_ref() != Some(&configuration) {
                    let _ = client.send(ToServer::Configured(configuration.clone()));
                    told = Some(configuration);
                }
                if renewed.elapsed() > Duration::from_millis(300) {
                    renewed = Instant::now();
                    let until = boottime() + tandem_base::Duration::from_secs(3);
                    let _ = client.send(ToServer::Lease { until });
                }
            }
        }
        heard.lock().unwrap().client = None;
    }
}

/// A certificate authority.
pub(crate) struct Authority {
    certificate: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { certificate: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// Writes `ca.pem`, `node.pem` and `node.key` for the DNS name `name` into `directory`.
    pub(crate) fn issue(&self, directory: &Path, name: &str) {
        std::fs::create_dir_all(directory).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_string()]).unwrap();
        let certificate = params.signed_by(&key, &self.certificate).unwrap();
        std::fs::write(directory.join("ca.pem"), self.certificate.pem()).unwrap();
        std::fs::write(directory.join("node.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("node.key"), key.serialize_pem()).unwrap();
    }
}

/// Runs a tool to its end, in bounded time; its output on success.
#[track_caller]
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().expect("timeout(1) exists");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn nbd_uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}
