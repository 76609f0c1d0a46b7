//! Commands that Tandem starts itself.

use super::Failure;
use crate::ledger;
use std::{path::PathBuf, process::ExitCode};
use tandem_volume_io::{
    attach::{device, file},
    export::Export,
    server,
};

/// Not for people: processes of their own that the agent, the lab and the examples run.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Serve one volume group's replica
    #[command(hide = true)]
    VolumeServer {
        /// The configuration, JSON
        config: PathBuf,
    },
    /// Show a volume as a file
    #[command(hide = true)]
    AttachFile(Attachment),
    /// Show a volume as a block device
    #[command(hide = true)]
    AttachDevice(Attachment),
    /// Freeze services when the lease ends
    #[command(hide = true)]
    Guard {
        /// Where the agent connects
        #[arg(long)]
        socket: PathBuf,
    },
    /// Append numbered records to a volume: the embedded service of the examples
    #[command(hide = true)]
    LedgerServe(ledger::ServeArgs),
    /// Ask a ledger whether it answers
    #[command(hide = true)]
    LedgerCheck(ledger::CheckArgs),
    /// Write through a service's address and remember what was acknowledged
    #[command(hide = true)]
    RehearseClient(ledger::ClientArgs),
}

/// What to attach, and where.
#[derive(clap::Args)]
pub(super) struct Attachment {
    /// The volume server's NBD socket
    #[arg(long)]
    socket: PathBuf,
    /// The volume and its promotion
    #[arg(long)]
    export: Export,
    /// Where the file is mounted
    #[arg(long)]
    mountpoint: PathBuf,
}

impl From<Attachment> for file::FileAttach {
    fn from(attachment: Attachment) -> Self {
        let Attachment { socket: nbd_socket, export, mountpoint } = attachment;
        Self { nbd_socket, export, mountpoint }
    }
}

pub(super) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::VolumeServer { config } => {
            super::log_to_stderr();
            let config: server::ServerConfig = serde_json::from_slice(&std::fs::read(config)?)?;
            server::run(&config)?;
        }
        Command::AttachFile(attachment) => {
            super::log_to_stderr();
            file::run(&attachment.into())?;
        }
        Command::AttachDevice(attachment) => {
            super::log_to_stderr();
            device::run(&device::DeviceAttach { file: attachment.into() })?;
        }
        Command::Guard { socket } => tandem_node_io::guard::run(&socket)?,
        Command::LedgerServe(args) => return Ok(ledger::serve(args)),
        Command::LedgerCheck(args) => return Ok(ledger::check(args)),
        Command::RehearseClient(args) => return Ok(ledger::client(args)),
    }
    Ok(ExitCode::SUCCESS)
}
