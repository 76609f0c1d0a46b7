//! `tandem volume`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, VolumeLine, ask},
    paths::Paths,
};
use std::process::ExitCode;
use tandem_base::ByteSize;
use tandem_volume_io::control::Status;

/// What to do with volumes.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show this node's replicas
    Status {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Let this node's disk under a group fail, for rehearsals
    #[command(hide = true)]
    InjectDiskFault {
        /// The group
        group: String,
        /// The error number: 5 is EIO, 28 is ENOSPC
        #[arg(long, default_value_t = 5)]
        errno: i32,
    },
}

pub(super) fn run(paths: &Paths, command: Command) -> Result<ExitCode, Failure> {
    let socket = paths.agent_socket();
    match command {
        Command::Status { json } => {
            let Answer::Volumes { volumes } = ask(&socket, &Ask::Volumes)? else {
                return Err(Failure::new("the agent answered another question"));
            };
            if json {
                print_json(&volumes);
                return Ok(ExitCode::SUCCESS);
            }
            for volume in volumes {
                print!("{}", render(volume));
            }
        }
        Command::InjectDiskFault { group, errno } => {
            if let Answer::Done { what } = ask(&socket, &Ask::InjectDiskFault { group, errno })? {
                println!("{what}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A replica in a few lines.
fn render(line: VolumeLine) -> String {
    use std::fmt::Write;
    let mut out = format!("{}\n", line.group);
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<11} {value}");
    };
    if let Some(why) = line.refused {
        row("down", format!("does not run: {why}"));
        return out;
    }
    let status = line.replica.map(serde_json::from_value::<Status>);
    let Some(Ok(status)) = status else {
        row("unclear", "the volume server does not answer".into());
        return out;
    };
    let primary = status.configuration.primary.as_ref().map_or("nobody".into(), |primary| primary.node.to_string());
    let in_sync: Vec<_> = status.configuration.in_sync.keys().map(ToString::to_string).collect();
    let role = serde_json::to_value(status.role).ok().and_then(|role| role.as_str().map(String::from));
    row("replica", format!("{} on {}", role.unwrap_or_default(), status.node));
    let epoch = status.configuration.epoch;
    row("register", format!("primary {primary}, in sync: {}, epoch {epoch}", in_sync.join(" ")));
    for (volume, size) in &status.volumes {
        row("volume", format!("{volume}, {size}"));
    }
    if let Some(why) = status.disk_error {
        row("disk", format!("failed: {why}"));
    }
    if let Some(why) = status.frozen {
        row("frozen", why);
    }
    if let Some(what) = status.proposed {
        row("proposed", what);
    }
    for peer in status.peers {
        let state = match (peer.resync, peer.problem) {
            (Some(resync), _) => {
                let size = |bytes| ByteSize::new(bytes).rounded();
                let (percent, done, total) = (resync.percent(), size(resync.done), size(resync.total));
                let sent = size(resync.sent);
                format!("is brought in sync: {percent} %, {done} of {total} compared, {sent} sent")
            }
            (None, _) if peer.connected => "connected".into(),
            (None, Some(why)) => format!("not connected: {why}"),
            (None, None) => "not connected".into(),
        };
        row("peer", format!("{} {state}", peer.node));
    }
    for attachment in status.attachments {
        row("attachment", format!("{}, {} requests without an answer", attachment.volume, attachment.in_flight));
    }
    row("nbd", line.nbd);
    out
}
