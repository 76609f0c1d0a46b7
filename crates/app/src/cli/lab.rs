//! `tandem lab`.

use super::{Failure, print_json};
use crate::plan_files;
use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};
use tandem_lab::{HostState, Lab, Options, Topology};

/// What to do with a lab.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Build every node of a plan as a host of its own on this machine, and start their agents
    Up {
        /// The plan's file, or its directory
        plan: PathBuf,
        #[command(flatten)]
        lab: Which,
    },
    /// End a lab; nothing of it is left
    Down {
        #[command(flatten)]
        lab: Which,
    },
    /// Show a lab's hosts and cuts
    Status {
        #[command(flatten)]
        lab: Which,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the labs of this machine
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Cut a node's power; its disk stays
    Kill {
        /// The node
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Start a killed node again
    Start {
        /// The node
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Stop every process of a node, as a hypervisor's pause does
    Freeze {
        /// The node
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Let a frozen node go on
    Resume {
        /// The node
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Let nothing pass between two sites or nodes, over a link, or from one to everything
    Cut {
        /// A site, a node, or a link's name
        from: String,
        /// The other side
        to: Option<String>,
        /// Only from the first to the second
        #[arg(long)]
        one_way: bool,
        #[command(flatten)]
        lab: Which,
    },
    /// Undo cuts: all, all of one, or those between two
    Heal {
        /// A site, a node, or a link's name
        from: Option<String>,
        /// The other side
        to: Option<String>,
        #[command(flatten)]
        lab: Which,
    },
    /// Run a command in a node
    Exec {
        #[command(flatten)]
        lab: Which,
        /// The node, or `outside`
        node: String,
        /// The command
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Which lab.
#[derive(clap::Args)]
pub(super) struct Which {
    /// The lab's name; labs of different names live side by side
    #[arg(long, default_value = "lab")]
    name: String,
}

impl Which {
    fn options(&self) -> Result<Options, Failure> {
        Ok(Options::new(&self.name, std::env::current_exe()?))
    }

    fn open(&self) -> Result<Lab, Failure> {
        let options = self.options()?;
        Ok(Lab::open(&options.base, &self.name)?)
    }
}

pub(super) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up { plan, lab } => up(&plan, &lab)?,
        Command::Down { lab } => {
            let options = lab.options()?;
            match Lab::open(&options.base, &lab.name) {
                Ok(living) => living.down()?,
                Err(_) => Lab::clear(&options.base, &lab.name)?,
            }
            eprintln!("lab {} is down; nothing of it is left", lab.name);
        }
        Command::Status { lab, json } => status(&lab.open()?, json)?,
        Command::List { json } => list(json)?,
        Command::Kill { node, lab } => lab.open()?.kill(&node)?,
        Command::Start { node, lab } => lab.open()?.start(&node)?,
        Command::Freeze { node, lab } => lab.open()?.freeze(&node)?,
        Command::Resume { node, lab } => lab.open()?.resume(&node)?,
        Command::Cut { from, to, one_way, lab } => lab.open()?.cut(&from, to.as_deref(), one_way)?,
        Command::Heal { from, to, lab } => lab.open()?.heal(from.as_deref(), to.as_deref())?,
        // What ran inside decides how this ends.
        Command::Exec { lab, node, command } => return Err(lab.open()?.command(&node, command).exec().into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(plan: &std::path::Path, lab: &Which) -> Result<(), Failure> {
    let loaded = plan_files::load(plan)?;
    tandem_lab::check_plan(&loaded.plan)?;
    let topology = Topology::of_plan(&loaded.plan);
    Lab::up(&topology, plan, &lab.options()?, &mut |step| eprintln!("{step}"))?;
    let nodes: Vec<_> = loaded.plan.nodes.keys().map(|node| node.as_str()).collect();
    eprintln!("lab {} is up: {}", lab.name, nodes.join(", "));
    let name = if lab.name == "lab" { String::new() } else { format!(" --name {}", lab.name) };
    eprintln!(
        "look at it with `tandem lab exec{name} {} tandem status`, end it with `tandem lab down{name}`",
        nodes[0]
    );
    Ok(())
}

fn status(lab: &Lab, json: bool) -> Result<(), Failure> {
    let status = lab.status()?;
    if json {
        print_json(&status);
        return Ok(());
    }
    println!("lab {}", status.name);
    for host in &status.hosts {
        let state = match host.state {
            HostState::Up => "up",
            HostState::Frozen => "frozen",
            HostState::Down => "down",
        };
        println!("  {:<12} {:<12} {state}", host.name, host.place);
    }
    for (from, to) in &status.cuts {
        println!("  cut: nothing passes from {from} to {to}");
    }
    Ok(())
}

fn list(json: bool) -> Result<(), Failure> {
    let labs = tandem_lab::list(&Options::new("lab", PathBuf::new()).base)?;
    if json {
        let labs: Vec<_> =
            labs.iter().map(|lab| serde_json::json!({ "name": lab.name, "path": lab.path, "up": lab.up })).collect();
        print_json(&labs);
        return Ok(());
    }
    for lab in labs {
        let state = if lab.up { "up" } else { "left by a crash; `tandem lab down` clears it away" };
        println!("{:<12} {}  {state}", lab.name, lab.path.display());
    }
    Ok(())
}
