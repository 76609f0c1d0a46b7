//! Wishes of this node on their way into the log.

use tandem_base::NodeName;
use tandem_cluster::{Command, Outcome};
use tandem_cluster_io::{ControlPlane, ProposeError};

/// Proposes in this node's name. Cheap to clone.
#[derive(Clone)]
pub(super) struct Proposer {
    control: ControlPlane,
    node: NodeName,
}

impl Proposer {
    pub(super) fn new(control: ControlPlane, node: NodeName) -> Self {
        Self { control, node }
    }

    /// Has `command` committed, and says how the log took it.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]: after [`ProposeError::Unknown`] it may still happen.
    pub(super) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.control.propose(command).await.map(|committed| committed.outcome)
    }

    /// Proposes without waiting: for what the caller repeats until the state shows it.
    pub(super) fn propose_in_background(&self, command: Command) {
        let this = self.clone();
        tokio::spawn(async move {
            match this.propose(command.clone()).await {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Refused(refusal)) => tracing::info!(?command, %refusal, "refused by the log"),
                Err(error) => tracing::debug!(?command, %error, "not proposed"),
            }
        });
    }

    /// Puts a line into the cluster's journal, if the cluster can be reached; it is in this node's own in any case.
    pub(super) fn note(&self, what: impl Into<String>, why: impl Into<String>) {
        let (node, what, why) = (self.node.clone(), what.into(), why.into());
        tracing::info!(what, why, "note");
        self.propose_in_background(Command::Note { node, what, why });
    }
}
