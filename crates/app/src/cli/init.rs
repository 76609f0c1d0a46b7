//! `tandem init`.

use super::{Failure, print_json};
use crate::{paths::Paths, plan_files, topology};
use std::{path::PathBuf, process::ExitCode};
use tandem_base::NodeName;
use tandem_cluster_io::{Founding, PORT, found};

/// What to found.
#[derive(clap::Args)]
pub(super) struct Options {
    /// This machine's name in the plan; a voter
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// The plan's file, or its directory [default: /etc/tandem]
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: Options) -> Result<ExitCode, Failure> {
    let loaded = plan_files::load(options.plan.as_ref().unwrap_or(&paths.config_dir))?;
    let Some(node) = loaded.plan.nodes.get(&options.node) else {
        let names: Vec<_> = loaded.plan.nodes.keys().map(NodeName::as_str).collect();
        return Err(Failure::new(format!("the plan has no node `{}`", options.node))
            .hint(format!("it has {}", names.join(", "))));
    };
    if !node.voter {
        return Err(Failure::new(format!("`{}` is no voter in this plan", options.node))
            .hint("found the cluster on a voter, and let the others join"));
    }
    let text = plan_files::joined(&loaded.files);
    let founding = Founding {
        data: paths.data_dir.clone(),
        node: options.node.clone(),
        address: std::net::SocketAddr::new(node.address, PORT).to_string(),
        plan: text.clone(),
        topology: topology::of(&loaded.plan),
        addresses: Vec::new(),
    };
    let founded = super::runtime()?.block_on(found(founding)).map_err(|error| {
        let exists = matches!(error, tandem_cluster_io::FoundError::Exists { .. });
        let failure = Failure::from(error);
        if !exists {
            return failure;
        }
        failure
            .hint(format!("start it with `tandem agent`; to begin anew, move {} away first", paths.data_dir.display()))
    })?;
    plan_files::remember(&paths.data_dir, &text)?;
    if options.json {
        print_json(&serde_json::json!({ "cluster": founded.cluster.to_string(), "token": founded.token.to_string() }));
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "cluster {} founded on {}; its certificate authority and first log entry are in {}",
        founded.cluster,
        options.node,
        paths.data_dir.display()
    );
    eprintln!("start this node with `tandem agent`, then run on each other machine of the plan:");
    eprintln!("  tandem join --node NAME --token TOKEN");
    eprintln!("the token lets a machine become a node; keep it like a password:");
    println!("{}", founded.token);
    Ok(ExitCode::SUCCESS)
}
