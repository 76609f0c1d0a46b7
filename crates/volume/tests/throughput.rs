//! How fast the engine itself is: two replicas in one thread, disks that answer at once, no codec.
//! `cargo test --release -p tandem-volume --test throughput -- --ignored --nocapture`

use std::collections::VecDeque;

use bytes::Bytes;
use tandem_base::{ClusterId, Configuration, Duration, Epoch, Instant, NodeName, OpenId, Primary, Rng};
use tandem_volume::{
    ConnectionId, DiskOp, DiskOutcome, Input, Output, Replica, ReplicaConfig, Request, RequestId, VolumeIndex,
    VolumeSpec,
};

const WRITES: u64 = 300_000;
const DEPTH: u64 = 32;

fn op(op: &DiskOp) -> tandem_volume::DiskOpId {
    match op {
        DiskOp::Read { op, .. }
        | DiskOp::Write { op, .. }
        | DiskOp::Zero { op, .. }
        | DiskOp::Sync { op }
        | DiskOp::StoreSuperblock { op, .. }
        | DiskOp::StoreActivity { op, .. }
        | DiskOp::StoreStamps { op, .. } => *op,
    }
}

#[test]
#[ignore = "a measurement; run it in release"]
fn four_kib_writes_at_depth_32() {
    let nodes: [NodeName; 2] = ["h1", "r1"].map(|node| node.try_into().expect("a name"));
    let now = Instant::from_nanos(1);
    let start = |at: usize| {
        let volumes = vec![VolumeSpec { name: "v".try_into().expect("a name"), size: 64 << 20 }];
        let peers = [nodes[1 - at].clone()].into();
        let group = "g".try_into().expect("a name");
        let config = ReplicaConfig::new(ClusterId(1), group, nodes[at].clone(), peers, volumes);
        Replica::start(config, None, OpenId(at as u64), at as u64, now)
    };
    let mut replicas = [start(0), start(1)];
    let mut inputs: VecDeque<(usize, Input)> = VecDeque::new();
    for at in [0, 1] {
        inputs.push_back((at, Input::PeerConnected { peer: nodes[1 - at].clone(), connection: ConnectionId(1) }));
        let promotion = Epoch { number: 1, tag: 1 };
        let primary = Some(Primary { node: nodes[0].clone(), open: OpenId(0), promotion });
        let in_sync = [(nodes[0].clone(), OpenId(0)), (nodes[1].clone(), OpenId(1))].into();
        inputs.push_back((at, Input::ServeOrdered));
        let until = now + Duration::from_secs(9_999);
        inputs.push_back((at, Input::LeaseGranted { until }));
        inputs.push_back((at, Input::Configured(Configuration { epoch: promotion, primary, in_sync })));
    }
    let (mut rng, mut submitted, mut replied) = (Rng::new(1), 0, 0);
    let data = Bytes::from(vec![7; 4096]);
    let mut promotion = None;
    let mut began = std::time::Instant::now();
    // The superblocks first: a replica takes over only once it is open.
    for at in [0, 1] {
        while let Some(Output::Disk(disk)) = replicas[at].poll_output() {
            replicas[at].handle(now, Input::DiskCompleted { op: op(&disk), outcome: DiskOutcome::Done });
        }
    }
    while replied < WRITES {
        while let Some(promotion) = promotion.filter(|_| submitted < WRITES && submitted < replied + DEPTH) {
            let what = Request::Write {
                volume: VolumeIndex(0),
                offset: rng.below(16_384) * 4096,
                data: data.clone(),
                fua: false,
            };
            inputs.push_back((0, Input::Submitted { request: RequestId(submitted), promotion, what }));
            submitted += 1;
        }
        let (at, input) = inputs.pop_front().expect("something is under way");
        replicas[at].handle(now, input);
        while let Some(output) = replicas[at].poll_output() {
            match output {
                Output::Disk(disk) => {
                    inputs.push_back((at, Input::DiskCompleted { op: op(&disk), outcome: DiskOutcome::Done }));
                }
                Output::Send { connection, message, .. } => {
                    inputs.push_back((1 - at, Input::PeerSaid { peer: nodes[at].clone(), connection, message }));
                }
                Output::Serving { promotion: new, .. } => {
                    promotion = Some(new);
                    began = std::time::Instant::now();
                }
                Output::Reply { .. } => replied += 1,
                _ => {}
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{:.0} writes/s, both replicas on one core", WRITES as f64 / seconds);
}
