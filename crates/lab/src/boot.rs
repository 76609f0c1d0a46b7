//! Makes a cluster of hosts that are up: by the commands that a person would type.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{LabError, directory::Directory, error::Doing, root};

/// How long a node may try to join, the founder's first election included.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// Founds the cluster on `node`; returns the token with which the others join.
pub(crate) fn found(directory: &Directory, binary: &Path, node: &str) -> Result<String, LabError> {
    let arguments = ["init", "--node", node, "--plan", "/etc/tandem/plan.toml"];
    let output = run(directory, binary, node, &arguments)?;
    let token = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    token.map(str::to_owned).ok_or_else(|| LabError::Command {
        node: node.into(),
        command: arguments.join(" "),
        ended: "exit status: 0".into(),
        output: "it printed no token".into(),
    })
}

/// Joins `node` to the cluster, trying until the founder answers.
pub(crate) fn join(directory: &Directory, binary: &Path, node: &str, token: &str) -> Result<(), LabError> {
    let deadline = Instant::now() + JOIN_WITHIN;
    loop {
        match run(directory, binary, node, &["join", "--node", node, "--token", token]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn run(directory: &Directory, binary: &Path, node: &str, arguments: &[&str]) -> Result<String, LabError> {
    let output = Command::new(binary)
        .arg("lab-enter")
        .arg(directory.path())
        .args([node, root::BINARY])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .doing(format!("run a command in `{node}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Command {
            node: node.into(),
            command: format!("tandem {}", arguments.first().copied().unwrap_or_default()),
            ended: output.status.to_string(),
            output: said,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
