//! `tandem join`.

use super::{Failure, print_json};
use crate::{paths::Paths, plan_files};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::ExitCode,
};
use tandem_base::NodeName;
use tandem_cluster_io::{
    JoinToken, PORT,
    join::{Joining, join},
};

/// What to join.
#[derive(clap::Args)]
pub(super) struct Options {
    /// This machine's name in the plan
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// What `tandem init` printed
    #[arg(long)]
    token: JoinToken,
    /// Where the other nodes reach this machine, as in the plan [default: the address it reaches them from]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: Options) -> Result<ExitCode, Failure> {
    let address = match options.address {
        Some(address) => address,
        None => own_address(&options.token)?,
    };
    let address = SocketAddr::new(address, PORT).to_string();
    let joining = Joining { data: paths.data_dir.clone(), node: options.node.clone(), address, token: options.token };
    let joined = super::runtime()?.block_on(join(joining))?;
    plan_files::remember(&paths.data_dir, &joined.plan)?;
    if options.json {
        print_json(&serde_json::json!({ "cluster": joined.cluster.to_string(), "by": joined.by.as_str() }));
    } else {
        eprintln!(
            "{} joined cluster {}, admitted by {}; start it with `tandem agent`",
            options.node, joined.cluster, joined.by
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The address from which this machine reaches the first node of the token: what a datagram there would carry. None is
/// sent.
fn own_address(token: &JoinToken) -> Result<IpAddr, Failure> {
    let unclear = |error: std::io::Error| {
        Failure::new(format!("this machine has no way to {}: {error}", token.addresses.join(", ")))
            .hint("give its own address with --address")
    };
    let towards = token.addresses.first().expect("a token names at least one address");
    let socket = match towards.starts_with('[') {
        true => UdpSocket::bind("[::]:0"),
        false => UdpSocket::bind("0.0.0.0:0"),
    };
    let socket = socket.map_err(unclear)?;
    socket.connect(towards).map_err(unclear)?;
    Ok(socket.local_addr().map_err(unclear)?.ip())
}
