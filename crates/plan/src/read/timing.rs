//! `[timing]`.

use super::{Fields, Reader};
use crate::diagnostic::Diagnostic;
use crate::{Code, Timing};
use tandem_base::Duration;

/// Keys of `[timing]`.
pub(crate) const KEYS: &[&str] =
    &["heartbeat", "lease", "clock_drift", "grace", "raft_heartbeat", "election_min", "election_max", "peer_timeout"];

pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Timing {
    let default = Timing::default();
    let mut duration = |key: &str, default: Duration| {
        /// Longer than any service can wait, and short enough that sums do not overflow.
        const LONGEST: Duration = Duration::from_secs(86_400);
        let Some(found) = fields.get(key) else { return default };
        let Some(duration) = reader.duration(found) else { return default };
        if duration == Duration::ZERO || duration > LONGEST {
            let message = format!("`{}` cannot be {duration}", found.path);
            let help = format!("its default is \"{default}\"; at most \"{LONGEST}\"");
            reader.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "out of range").help(help));
            return default;
        }
        duration
    };
    Timing {
        heartbeat: duration("heartbeat", default.heartbeat),
        lease: duration("lease", default.lease),
        grace: duration("grace", default.grace),
        raft_heartbeat: duration("raft_heartbeat", default.raft_heartbeat),
        election_min: duration("election_min", default.election_min),
        election_max: duration("election_max", default.election_max),
        peer_timeout: duration("peer_timeout", default.peer_timeout),
        clock_drift: fields
            .get("clock_drift")
            .and_then(|found| reader.proportion(found))
            .unwrap_or(default.clock_drift),
    }
}
