//! What this node has to do, again after every change: the log's state and the lease go in, orders for the groups and
//! services of this node come out.

use super::{
    group::{self, Group},
    proposer::Proposer,
    service::{self, Service},
};
use crate::{paths::Paths, plan_files};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tandem_base::{GroupName, NodeName, ServiceName};
use tandem_cluster::{Intents, State, intents};
use tandem_cluster_io::{Applied, Lease, PORT};
use tandem_plan::Plan;
use tandem_volume_io::server::{Ack, ServerConfig};
use tokio::sync::watch;

/// Everything that runs on this node.
pub(super) struct Node {
    name: NodeName,
    paths: Paths,
    proposer: Proposer,
    context: Arc<service::Context>,
    allow_faults: bool,
    /// The plan, and the revision of the log's plan that it was read from.
    plan: Option<(u64, Arc<Plan>)>,
    pub(super) groups: Arc<Mutex<BTreeMap<GroupName, Arc<Group>>>>,
    services: BTreeMap<ServiceName, Service>,
}

impl Node {
    pub(super) fn new(
        name: NodeName,
        paths: Paths,
        proposer: Proposer,
        context: Arc<service::Context>,
        allow_faults: bool,
    ) -> Self {
        Self {
            name,
            paths,
            proposer,
            context,
            allow_faults,
            plan: None,
            groups: Arc::default(),
            services: BTreeMap::new(),
        }
    }

    /// Follows the log and the lease until either ends.
    pub(super) async fn run(mut self, mut applied: watch::Receiver<Arc<Applied>>, mut lease: watch::Receiver<Lease>) {
        loop {
            // The lease first: a state looked at after it is at least as new as what the lease was granted on.
            let held = *lease.borrow_and_update();
            let now = applied.borrow_and_update().clone();
            if let Some(until) = held.until
                && let Err(error) = self.context.guard.extend(until).await
            {
                tracing::warn!(%error, "the guard does not know of the renewed lease");
            }
            self.settle(&now.state, held);
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                changed = lease.changed() => if changed.is_err() { return },
            }
        }
    }

    fn settle(&mut self, state: &State, lease: Lease) {
        self.read_plan(state);
        let Some((_, plan)) = self.plan.clone() else { return };
        let wanted = intents(state, &self.name);
        self.settle_groups(state, lease, &plan, &wanted);
        for (name, intent) in wanted.services {
            let Some(spec) = plan.services.get(&name) else { continue };
            let service = self.services.entry(name).or_insert_with(|| {
                let group =
                    plan.group_of(spec).and_then(|group| self.groups.lock().expect(UNPOISONED).get(&group).cloned());
                Service::start(plan.clone(), spec.clone(), group, self.context.clone())
            });
            service.orders.send_if_modified(|orders| {
                let new = service::Orders { intent: Some(intent), lease_until: lease.until };
                std::mem::replace(orders, new.clone()) != new
            });
        }
    }

    /// Reads the log's plan when it is another one.
    fn read_plan(&mut self, state: &State) {
        let revision = state.plan_revision();
        if revision == 0 || self.plan.as_ref().is_some_and(|(read, _)| *read == revision) {
            return;
        }
        match plan_files::parse_joined(state.plan()) {
            Ok(plan) => self.plan = Some((revision, Arc::new(plan))),
            Err(why) => tracing::error!(revision, why, "this version of the program refuses the cluster's plan"),
        }
    }

    fn settle_groups(&mut self, state: &State, lease: Lease, plan: &Plan, wanted: &Intents) {
        let mut groups = self.groups.lock().expect(UNPOISONED);
        for name in &wanted.replicas {
            let (Some(register), Some(cluster)) = (state.group(name), state.cluster()) else { continue };
            let peers = self.peers(state, plan, name);
            let group = groups.entry(name.clone()).or_insert_with(|| {
                let config = self.server_config(plan, name, cluster, peers.clone());
                Arc::new(Group::start(config, &self.paths, self.proposer.clone()))
            });
            let role = match (wanted.serve.contains(name), wanted.release.contains(name)) {
                (true, _) => group::Role::Serve,
                (false, true) => group::Role::Release,
                (false, false) => group::Role::Follow,
            };
            let registered = register.replicas.get(&self.name);
            let orders = group::Orders {
                config: register.config.clone(),
                registered: registered.map(|registered| registered.open),
                closed: registered.is_some_and(|registered| registered.closed.is_some()),
                session: lease.session,
                lease_until: lease.until,
                role,
                peers,
            };
            group.orders.send_if_modified(|old| std::mem::replace(old, orders.clone()) != orders);
        }
    }

    /// The other replicas' nodes, and where they listen: as they joined, else as the plan says.
    fn peers(&self, state: &State, plan: &Plan, group: &GroupName) -> BTreeMap<NodeName, SocketAddr> {
        let replicas = state.topology().groups.get(group).map(|spec| spec.replicas.clone()).unwrap_or_default();
        let others = replicas.into_iter().filter(|node| *node != self.name);
        others
            .filter_map(|node| {
                let planned = SocketAddr::new(plan.nodes.get(&node)?.address, PORT);
                let joined = state.members().get(&node).and_then(|member| member.address.parse().ok());
                Some((node, joined.unwrap_or(planned)))
            })
            .collect()
    }

    fn server_config(
        &self,
        plan: &Plan,
        name: &GroupName,
        cluster: tandem_base::ClusterId,
        peers: BTreeMap<NodeName, SocketAddr>,
    ) -> ServerConfig {
        let groups = plan.groups();
        let volumes = groups.get(name).map(|group| group.volumes.as_slice()).unwrap_or_default();
        let volumes: Vec<_> = volumes.iter().filter_map(|volume| plan.volumes.get(volume)).collect();
        let durable = volumes.iter().any(|volume| volume.ack == tandem_plan::Ack::Durable);
        let run_dir = self.paths.volume_run(name);
        ServerConfig {
            cluster,
            generation: 1,
            group: name.clone(),
            node: self.name.clone(),
            peers,
            volumes: volumes.iter().map(|volume| (volume.name.clone(), volume.size)).collect(),
            ack: if durable { Ack::Durable } else { Ack::Memory },
            peer_timeout: plan.timing.peer_timeout,
            directory: self.paths.volumes(name),
            identity: self.paths.identity(),
            control_socket: run_dir.join("control.sock"),
            nbd_socket: run_dir.join("nbd.sock"),
            allow_faults: self.allow_faults,
        }
    }
}

/// Why a lock of this module is never poisoned.
pub(super) const UNPOISONED: &str = "nothing panics while it holds this lock";
