//! What a plan means for the cluster: names, places, rules and times, nothing of how a node carries them out.

use tandem_cluster::{Failback, GroupSpec, NodeSpec, ServiceSpec, Timings, Topology};
use tandem_plan::Plan;

/// The topology that the cluster's log keeps beside the plan's text.
pub(crate) fn of(plan: &Plan) -> Topology {
    let nodes = plan.nodes.values().map(|node| {
        let spec = NodeSpec { site: node.site.clone(), witness: node.witness, voter: node.voter };
        (node.name.clone(), spec)
    });
    let groups = plan.groups().into_iter().map(|(name, group)| {
        let size = |volume| plan.volumes.get(volume).expect("a plan declares every volume of its groups").size;
        let volumes = group.volumes.iter().map(|volume| (volume.clone(), size(volume))).collect();
        (name, GroupSpec { replicas: group.replicas.into_iter().collect(), volumes })
    });
    let services = plan.services.values().map(|service| {
        let spec = ServiceSpec {
            group: plan.group_of(service),
            prefer: Some(service.prefer.clone()),
            failback: match service.failback {
                tandem_plan::Failback::Manual => Failback::Manual,
                tandem_plan::Failback::Auto => Failback::Auto,
            },
            after: service.after.iter().cloned().collect(),
            candidates: plan.candidates(service).into_iter().collect(),
        };
        (service.name.clone(), spec)
    });
    let timing = &plan.timing;
    Topology {
        nodes: nodes.collect(),
        groups: groups.collect(),
        services: services.collect(),
        timings: Timings {
            heartbeat: timing.heartbeat,
            lease: timing.lease,
            drift_ppm: timing.clock_drift.millionths().into(),
            grace: timing.grace,
            raft_heartbeat: timing.raft_heartbeat,
            election_timeout_min: timing.election_min,
            election_timeout_max: timing.election_max,
            peer_timeout: timing.peer_timeout,
        },
    }
}
