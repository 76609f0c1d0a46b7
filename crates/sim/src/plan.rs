//! The plan that the world follows: one group, one service, two or three replicas and a witness.

use std::collections::{BTreeMap, BTreeSet};

use tandem_base::{ByteSize, GroupName, NodeName, Rng, ServiceName, SiteName};
use tandem_cluster::{Failback, GroupSpec, NodeSpec, ServiceSpec, Timings, Topology};
use tandem_volume::VolumeSpec;

/// Replicas on the first `replicas` nodes, each on a site of its own; the last node is the witness.
pub(crate) fn topology(
    names: &[NodeName],
    voters: &[bool],
    replicas: usize,
    group: &GroupName,
    service: &ServiceName,
    volumes: &[VolumeSpec],
    rng: &mut Rng,
) -> Topology {
    let site = |index: usize| SiteName::new(["rouans", "sthilaire", "nantes"][index]).expect("a name");
    let nodes = names.iter().enumerate().map(|(index, name)| {
        let witness = index == replicas;
        let spec = NodeSpec { site: (!witness).then(|| site(index)), witness, voter: voters[index] };
        (name.clone(), spec)
    });
    let holders: BTreeSet<NodeName> = names[..replicas].iter().cloned().collect();
    let volumes = volumes.iter().map(|volume| (volume.name.clone(), ByteSize::new(volume.size))).collect();
    let service_spec = ServiceSpec {
        group: Some(group.clone()),
        prefer: rng.chance(1, 2).then(|| site(0)),
        failback: if rng.chance(1, 3) { Failback::Auto } else { Failback::Manual },
        after: BTreeSet::new(),
        candidates: holders.clone(),
    };
    Topology {
        nodes: nodes.collect(),
        groups: BTreeMap::from([(group.clone(), GroupSpec { replicas: holders, volumes })]),
        services: BTreeMap::from([(service.clone(), service_spec)]),
        timings: Timings::default(),
    }
}
