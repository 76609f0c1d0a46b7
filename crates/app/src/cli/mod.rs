//! The command line: noun then verb, `--json` everywhere, data on standard output and words on standard error.
//!
//! One file per noun. Exit codes: 0 ok, 1 failure, 2 usage.

mod agent;
mod events;
mod explain;
pub(crate) mod hints;
mod init;
mod internal;
mod join;
mod lab;
mod plan;
mod rehearse;
mod relocate;
mod status;
mod volume;

use crate::paths::Paths;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Keeps services alive across two sites.
#[derive(Parser)]
#[command(name = "tandem", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    paths: Paths,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check, show and describe continuity plans
    #[command(subcommand)]
    Plan(plan::Command),
    /// Play a plan's failures in a lab on this machine and measure what they cost
    Rehearse(rehearse::Options),
    /// Run a plan's nodes as namespaces on this machine
    #[command(subcommand)]
    Lab(lab::Command),
    /// Found a cluster on this node, and print the token that other nodes join with
    Init(init::Options),
    /// Join this node to a cluster
    Join(join::Options),
    /// Run this node
    Agent(agent::Options),
    /// Show the cluster on one screen, and in words what is degraded
    Status(status::Options),
    /// Say where a service runs and why
    Explain(explain::Options),
    /// Show the cluster's journal
    Events(events::Options),
    /// Move a service to another node (a planned switchover)
    Move(relocate::Options),
    /// Look at this node's volumes
    #[command(subcommand)]
    Volume(volume::Command),
    #[command(flatten)]
    Internal(internal::Command),
}

/// Why a command failed: printed as `error:`, the causes below it, and one `hint:`.
pub(crate) struct Failure {
    error: Box<dyn std::error::Error>,
    hint: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self { error: words.into().into(), hint: None }
    }

    /// With one thing to try.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn print(&self) {
        eprintln!("error: {}", self.error);
        let mut cause = self.error.source();
        while let Some(error) = cause {
            eprintln!("  because: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let hint = hints::of(&error);
        Self { error: Box::new(error), hint }
    }
}

/// Parses the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    let Cli { paths, command } = Cli::parse();
    let outcome = match command {
        Command::Plan(command) => plan::run(command),
        Command::Rehearse(options) => rehearse::run(options),
        Command::Lab(command) => lab::run(command),
        Command::Init(options) => init::run(&paths, options),
        Command::Join(options) => join::run(&paths, options),
        Command::Agent(options) => agent::run(paths, options),
        Command::Status(options) => status::run(&paths, &options),
        Command::Explain(options) => explain::run(&paths, options),
        Command::Events(options) => events::run(&paths, options),
        Command::Move(options) => relocate::run(&paths, options),
        Command::Volume(command) => volume::run(&paths, command),
        Command::Internal(command) => internal::run(command),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}

/// Prints a value as one JSON document.
fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string_pretty(value).expect("what the command line prints is plain data"));
}

/// The runtime of a command that talks to other machines.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Logs to standard error, for the journal: what `TANDEM_LOG` asks for, or `info`.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TANDEM_LOG")
        .unwrap_or_else(|_| "info,openraft=error,fuser=error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
