//! Where things lie on a node.

use std::path::PathBuf;
use tandem_base::GroupName;

/// The three places of a node, each to be set by a flag or the environment.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Paths {
    /// Durable state: identity, cluster log, volumes.
    #[arg(
        long,
        global = true,
        env = "TANDEM_DATA_DIR",
        default_value = "/var/lib/tandem",
        hide_env = true,
        hide = true
    )]
    pub(crate) data_dir: PathBuf,
    /// Sockets and what belongs to this boot.
    #[arg(long, global = true, env = "TANDEM_RUN_DIR", default_value = "/run/tandem", hide_env = true, hide = true)]
    pub(crate) run_dir: PathBuf,
    /// Configuration.
    #[arg(long, global = true, env = "TANDEM_CONFIG_DIR", default_value = "/etc/tandem", hide_env = true, hide = true)]
    pub(crate) config_dir: PathBuf,
}

impl Paths {
    /// The node's certificate, its key, and the cluster's authority.
    pub(crate) fn identity(&self) -> PathBuf {
        self.data_dir.join("identity")
    }

    /// The images and superblock of a group's replica.
    pub(crate) fn volumes(&self, group: &GroupName) -> PathBuf {
        self.data_dir.join("volumes").join(group.as_str())
    }

    /// The sockets of a group's volume server.
    pub(crate) fn volume_run(&self, group: &GroupName) -> PathBuf {
        self.run_dir.join("volumes").join(group.as_str())
    }

    /// The agent's socket for the local command line.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Held locked by the one agent of this machine.
    pub(crate) fn agent_lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }
}
