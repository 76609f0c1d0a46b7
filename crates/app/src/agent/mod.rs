//! The agent: one process for each node that joins the cluster's log to what runs here.
//!
//! - [`node`] turns the log's state and the lease into orders, again after every change.
//! - [`group`] keeps one group's volume server and carries words between it and the log.
//! - [`service`] runs one service's lifecycle; [`steps`] carries its steps out.
//! - [`listener`] is the port for peers, [`api`] the socket for the local command line.

mod api;
mod disk_probe;
mod group;
mod listener;
mod node;
mod now_and_then;
mod oracle;
mod proposer;
mod run_id;
mod service;
mod steps;
mod surrender;

use crate::{
    cli::{Failure, hints::AS_ROOT},
    paths::Paths,
    plan_files,
};
use proposer::Proposer;
use std::{net::SocketAddr, path::Path, sync::Arc};
use tandem_cluster_io::{Config, ControlPlane, PORT};
use tandem_net_io::Network;
use tandem_node_io::{GuardHandle, GuardSpec};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs this node until SIGTERM or SIGINT.
///
/// Ending releases nothing: volume servers, services and the guard go on, and the next agent finds them.
///
/// # Errors
///
/// What keeps the agent from starting; nothing was changed then.
pub(crate) async fn run(paths: Paths, lab: bool) -> Result<(), Failure> {
    private_directory(&paths.run_dir)?;
    private_directory(&paths.data_dir)?;
    let _lock = lock(&paths)?;
    surrender::check(&paths.run_dir)?;
    let plan = plan_files::remembered(&paths.data_dir)?;
    let run = run_id::of_this_boot(&paths.run_dir)?;
    let timings = crate::topology::of(&plan).timings;
    let control = ControlPlane::open(Config::new(&paths.data_dir, run, timings)).await?;
    end_on_panic();
    let name = control.node().clone();
    let spec = plan.nodes.get(&name).ok_or_else(|| {
        Failure::new(format!("this machine's certificate says it is `{name}`, which the cluster's plan does not have"))
    })?;
    let address = SocketAddr::new(spec.address, PORT);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::new(format!("cannot listen on {address}: {error}")).hint(match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program has this port; `ss -ltnp` names it",
            _ => "is this the machine that the plan gives this address?",
        })
    })?;
    let socket = paths.agent_socket();
    let commands =
        api::listen(&socket).map_err(|error| Failure::new(format!("cannot open {}: {error}", socket.display())))?;

    let proposer = Proposer::new(control.clone(), name.clone());
    let network = Network::open()?;
    let socket = paths.run_dir.join("guard.sock");
    let argv = vec![std::env::current_exe()?.into(), "guard".into(), "--socket".into(), socket.clone().into()];
    let guard = GuardHandle::start(GuardSpec { argv, socket, log: paths.run_dir.join("guard.log") }).await?;
    let context = Arc::new(service::Context {
        node: name.clone(),
        paths: paths.clone(),
        proposer: proposer.clone(),
        network,
        guard,
    });
    let lease = control.hold_lease();
    let node = node::Node::new(name.clone(), paths.clone(), proposer.clone(), context, lab);
    let groups = Arc::clone(&node.groups);
    tokio::spawn(listener::listen(listener, control.clone(), Arc::clone(&groups)));
    let oracle = oracle::Agent::new(name, control.clone(), lease.clone(), groups, paths.clone(), proposer);
    tokio::spawn(api::serve(commands, Arc::new(oracle)));
    tokio::spawn(node.run(control.watch(), lease));
    tokio::spawn(remember_plan(control.clone(), paths));
    tracing::info!(%address, "agent runs");

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("agent ends; what it started goes on");
    control.shutdown().await;
    Ok(())
}

/// A bug in one of the agent's tasks ends the agent, which is then started again. One that went on without it would renew
/// its lease and do nothing.
fn end_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Keeps the plan's text beside the log, for the next start.
async fn remember_plan(control: ControlPlane, paths: Paths) {
    let mut applied = control.watch();
    let mut remembered = 0;
    loop {
        let now = Arc::clone(&applied.borrow_and_update());
        let revision = now.state.plan_revision();
        if revision > remembered {
            match plan_files::remember(&paths.data_dir, now.state.plan()) {
                Ok(()) => remembered = revision,
                Err(_) => {
                    tracing::warn!(revision, "cannot keep the plan beside the log; the next start uses the older times")
                }
            }
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Makes a directory that only root may look into.
fn private_directory(path: &Path) -> Result<(), Failure> {
    tandem_cluster_io::identity::private_directory(path).map_err(|error| {
        let failure = Failure::new(format!("cannot make {}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure.hint(format!("the agent needs root: {AS_ROOT}")),
            _ => failure,
        }
    })
}

/// Keeps a second agent of this machine away for as long as the file is open.
fn lock(paths: &Paths) -> Result<std::fs::File, Failure> {
    let path = paths.agent_lock();
    let file = std::fs::File::create(&path)
        .map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())))?;
    file.try_lock().map_err(|_| {
        Failure::new(format!("another agent of this machine holds {}", path.display()))
            .hint("`systemctl status tandem` shows it")
    })?;
    Ok(file)
}
