//! What a run is told besides its seed.

use tandem_cluster::mutations::Mutation as ClusterMutation;
use tandem_volume::Mutations as VolumeMutations;

/// A rule of a core, broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutation {
    /// Its name on a command line.
    pub name: &'static str,
    pub(crate) volume: VolumeMutations,
    pub(crate) cluster: Option<ClusterMutation>,
}

/// Mistakes that whole histories seldom show, because another rule stands behind the one that is broken. A directed test
/// of the core breaks each of them.
///
/// - `lease-counts-from-answer` (`lease.rs`): the answer would have to be under way for longer than drift and grace
///   together, and be the last that arrives; one history in a thousand.
/// - `revive-expired-session` (`mutations.rs`): a grant counts only once the node has applied the log up to where the
///   leader read it, so it knows what became of its promotions when the session first expired. It lives for longer, no more.
/// - `ignore-expected-epoch` (`mutations.rs`): the session, the run and the primary of a proposal are checked beside its
///   epoch; one history in some hundreds.
const ELSEWHERE: [&str; 3] = ["lease-counts-from-answer", "revive-expired-session", "ignore-expected-epoch"];

/// Mistakes that only a third replica, away for longer than the second one, can show.
const WITH_THREE: [&str; 1] = ["no_stamps_for_equals"];

impl Mutation {
    /// How many replicas its histories have; `None`: the seed decides.
    pub(crate) fn replicas(&self) -> Option<usize> {
        WITH_THREE.contains(&self.name).then_some(3)
    }

    /// Whether a few hundred histories must notice it.
    #[must_use]
    pub fn must_be_noticed(&self) -> bool {
        !ELSEWHERE.contains(&self.name)
    }

    /// All of them, of both cores.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let volume = VolumeMutations::each().into_iter().map(|(name, volume)| Self { name, volume, cluster: None });
        let cluster = ClusterMutation::ALL.into_iter().map(|mutation| Self {
            name: mutation.name(),
            volume: VolumeMutations::default(),
            cluster: Some(mutation),
        });
        volume.chain(cluster).collect()
    }

    /// The one of this name; `-` and `_` are the same.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|mutation| mutation.name.replace('_', "-") == name.replace('_', "-"))
    }
}

/// What a run is told besides its seed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The rule to break. One process plays one mutation of the cluster core at a time.
    pub mutation: Option<Mutation>,
    /// Replicas: 2 or 3; `None`: the seed decides.
    pub replicas: Option<usize>,
    /// Most events in one history; a world that needs more does not come to rest.
    pub events_max: u64,
    /// Keep the history of events.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mutation: None, replicas: None, events_max: 400_000, trace: false }
    }
}
