//! The plan's JSON Schema, for editors.
//!
//! These types only describe the language; reading it is the work of `read`, and a test keeps their keys the same.

#![allow(dead_code, reason = "only their shape is used")]

use schemars::{JsonSchema, schema_for};
use std::collections::BTreeMap;

/// The JSON Schema of one file of a plan. Every key is optional at the top, since a plan may be spread over files.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schema_for!(PlanFile).to_value();
    schema["$id"] = "https://tandem.invalid/plan.schema.json".into();
    schema
}

/// A continuity plan, or one file of it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Tandem continuity plan")]
struct PlanFile {
    plan: Option<PlanKeys>,
    /// Places whose machines can fall together.
    site: Option<BTreeMap<String, SiteKeys>>,
    /// Sources of power, and UPS.
    power: Option<BTreeMap<String, PowerKeys>>,
    /// Machines that run the agent.
    node: Option<BTreeMap<String, NodeKeys>>,
    /// Lines between places.
    link: Option<BTreeMap<String, LinkKeys>>,
    outside: Option<OutsideKeys>,
    /// Replicated virtual disks.
    volume: Option<BTreeMap<String, VolumeKeys>>,
    /// What users reach.
    service: Option<BTreeMap<String, ServiceKeys>>,
    timing: Option<TimingKeys>,
}

/// The plan itself.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PlanKeys {
    name: Name,
}

/// A place whose machines can fall together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct SiteKeys {}

/// A source of power, or a UPS when something feeds it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PowerKeys {
    /// Where it stands.
    site: Name,
    /// What feeds it; any one is enough.
    fed_by: Option<Vec<Name>>,
    /// How long it holds without being fed.
    runtime: Option<Duration>,
}

/// A machine that runs the agent.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct NodeKeys {
    /// Where it stands; only a witness may stand outside every site.
    site: Option<Name>,
    /// Where its peers reach it, on port 7400/tcp: IPv4 or IPv6.
    address: String,
    /// Whether it votes and holds no data. Default: false.
    witness: Option<bool>,
    /// Whether it votes. Default: the same number of nodes in every site, and the witness.
    voter: Option<bool>,
    /// What feeds it; any one is enough.
    powered_by: Option<Vec<Name>>,
}

/// A line between two places.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LinkKeys {
    /// Its two ends: sites, witnesses that are in no site, or `outside`.
    #[schemars(length(min = 2, max = 2))]
    between: Vec<Name>,
    /// One way: half of what ping shows.
    latency: Duration,
    /// Each packet waits up to this much more. Default: none.
    jitter: Option<Duration>,
    /// Packets that never arrive. Default: 0 %.
    loss: Option<Percentage>,
    /// What it carries in each direction. Default: unlimited.
    bandwidth: Option<BandwidthKeys>,
}

/// The line by which a place reaches whatever no link leads to.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct OutsideKeys {
    /// One way: half of what ping shows. Default: 10 ms.
    latency: Option<Duration>,
    /// Each packet waits up to this much more. Default: none.
    jitter: Option<Duration>,
    /// Packets that never arrive. Default: 0 %.
    loss: Option<Percentage>,
    /// What it carries in each direction. Default: unlimited.
    bandwidth: Option<BandwidthKeys>,
}

/// A rate for both directions, or one for each.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum BandwidthKeys {
    /// The same in both directions.
    Both(Rate),
    /// From the first end to the second, and back.
    Each(EachWay),
}

/// A rate for each direction; one that is left out is unlimited.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct EachWay {
    /// From the first end to the second; of `outside`, from a site to the outside.
    up: Option<Rate>,
    /// From the second end to the first; of `outside`, from the outside to a site.
    down: Option<Rate>,
}

/// A replicated virtual disk.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct VolumeKeys {
    /// A multiple of 4 KiB.
    size: Size,
    /// The nodes that keep a copy.
    #[schemars(length(min = 1))]
    replicas: Vec<Name>,
    /// When the other replicas have a write. Default: sync.
    mode: Option<ModeWord>,
    /// What a replica has done with a write before it counts as held. Default: memory.
    ack: Option<AckWord>,
    /// How the service reaches it. Default: device.
    attach: Option<AttachWord>,
}

/// When the other replicas have a write.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum ModeWord {
    /// Before it is acknowledged.
    Sync,
}

/// What a replica has done with a write before it counts as held.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum AckWord {
    /// Its kernel has accepted it.
    Memory,
    /// It is on stable storage.
    Durable,
}

/// How a service reaches a volume.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum AttachWord {
    /// A block device with a file system.
    Device,
    /// A file of the volume's size.
    File,
    /// An NBD server on a unix socket.
    Nbd,
}

/// What users reach.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ServiceKeys {
    /// What it keeps its data on.
    volume: Option<Name>,
    /// The same for several; they form one group.
    volumes: Option<Vec<Name>>,
    /// Made on a volume that attaches as a device when that is empty.
    filesystem: Option<FilesystemWord>,
    /// Where a volume that attaches as a device is mounted.
    mount: Option<MountKeys>,
    /// The address that moves with it, with its network's length.
    #[schemars(extend("examples" = ["10.9.0.10/24", "fd00::10/64"]))]
    address: Option<String>,
    /// What runs.
    run: Option<RunKeys>,
    /// How it is seen to work.
    check: Option<CheckKeys>,
    /// The site where it runs when there is a choice. Default: that of the first replica.
    prefer: Option<Name>,
    /// Whether it goes back by itself to where it is preferred. Default: manual.
    failback: Option<FailbackWord>,
    /// How long it may be down.
    rto: Option<Duration>,
    /// What it may lose, in time before the fall.
    rpo: Option<Duration>,
    /// Services that are up before this one starts.
    after: Option<Vec<Name>>,
    /// How long each step of its start may take. Default: 60 s.
    start_timeout: Option<Duration>,
    /// How long each step of its stop may take. Default: 30 s.
    stop_timeout: Option<Duration>,
}

/// A directory, or one for each volume.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum MountKeys {
    /// Of the only volume that is mounted.
    One(String),
    /// By volume.
    Each(BTreeMap<String, String>),
}

/// A kind of file system.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum FilesystemWord {
    /// ext4.
    Ext4,
}

/// Whether a service goes back by itself.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum FailbackWord {
    /// When a person says so.
    Manual,
    /// By itself, as a switchover.
    Auto,
}

/// A program that stays in the foreground while the service is up.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct RunKeys {
    /// The program and its arguments; no shell reads them. Placeholders: {file}, {socket}, {mount}, {address}, {node},
    /// {service}, {plan_dir}.
    #[schemars(length(min = 1))]
    process: Vec<String>,
    /// Run before the program is asked to stop, while it still serves, for at most half of `stop_timeout`: what shortens
    /// the stop, such as a checkpoint.
    #[schemars(length(min = 1))]
    before_stop: Option<Vec<String>>,
    /// Who it runs as. Default: as the agent.
    user: Option<String>,
    /// Added to a small fixed environment.
    env: Option<BTreeMap<String, String>>,
    /// Its working directory. Default: /.
    dir: Option<String>,
}

/// How a service is seen to work: exactly one of `tcp` and `command`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct CheckKeys {
    /// Something accepts a connection at this address and port.
    #[schemars(extend("examples" = ["{address}:5432"]))]
    tcp: Option<String>,
    /// This program exits with 0.
    command: Option<Vec<String>>,
    /// From the start of one try to the start of the next. Default: 2 s.
    interval: Option<Duration>,
    /// A try that takes longer has failed. Default: 2 s.
    timeout: Option<Duration>,
    /// The service is down after this many failures in a row. Default: 3.
    #[schemars(range(min = 1, max = 1000))]
    failures: Option<u32>,
}

/// The cluster's clocks.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct TimingKeys {
    /// From one renewal of a node's session to the next. Default: 500 ms.
    heartbeat: Option<Duration>,
    /// How long a renewal entitles a node to act. Default: 3 s.
    lease: Option<Duration>,
    /// How far any clock may run from true time. Default: 1 %.
    clock_drift: Option<Percentage>,
    /// How long a node whose lease ended may take to stop acting. Default: 500 ms.
    grace: Option<Duration>,
    /// From one message of the log's leader to the next. Default: 150 ms.
    raft_heartbeat: Option<Duration>,
    /// Shortest silence of the leader after which a voter stands for election. Default: 600 ms.
    election_min: Option<Duration>,
    /// Longest such silence. Default: 1200 ms.
    election_max: Option<Duration>,
    /// How long a secondary may leave a write unanswered. Default: 1 s.
    peer_timeout: Option<Duration>,
}

/// A name: 1 to 63 characters of a-z, 0-9 and `-`.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Name(#[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))] String);

/// A length of time: a number and ns, us, ms, s, min, h or d.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Duration(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]+)?\s*(ns|us|ms|s|min|h|d)\s*$"))] String);

/// A size: a number and B, KiB, MiB, GiB, TiB (powers of 1,024), kB, MB, GB or TB (of 1,000).
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Size(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]+)?\s*(B|[KMGT]iB|[kMGT]B)\s*$"))] String);

/// A rate: a number and bit/s, kbit/s, Mbit/s or Gbit/s.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Rate(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]+)?\s*[kMG]?bit/s\s*$"))] String);

/// A percentage from 0 to 100.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Percentage(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]{1,4})?\s*%\s*$"))] String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;
    use std::collections::BTreeSet;

    /// An editor and the reader must know the same keys.
    #[test]
    fn the_schema_has_the_readers_keys() {
        let schema = schema();
        let keys = |name: &str| -> BTreeSet<String> {
            let object = if name == "PlanFile" { &schema } else { &schema["$defs"][name] };
            object["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
        };
        for (name, known) in read::all_keys() {
            let known: BTreeSet<String> = known.iter().map(|key| (*key).to_owned()).collect();
            assert_eq!(keys(name), known, "{name}");
        }
    }
}
