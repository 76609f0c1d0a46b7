//! A client that will not be redirected: it sends to the old primary's Ethernet address whatever anybody announces.
//!
//! It shows whether a primary that was frozen for longer than its lease acknowledges anything when it goes on: an
//! ordinary client is led to the new primary by the address that moved, and would never see it.

use std::{
    io::{Read, Write},
    net::IpAddr,
    process::{Child, Stdio},
};

use crate::{
    Host, Lab, LabError, OUTSIDE, Topology,
    error::Doing,
    rehearsal::client::{Kind, Target},
};

/// The host from which it looks; beside [`OUTSIDE`], as the pinned address would mislead the ordinary client.
pub(crate) const OBSERVER: &str = "observer";

/// Adds the observer's host.
pub(crate) fn add_host(topology: &mut Topology) {
    let addresses: Vec<IpAddr> =
        ["198.51.100.251", "2001:db8:ffff::251"].map(|a| a.parse().expect("an address")).into();
    let host = Host { name: OBSERVER.into(), place: OUTSIDE.into(), addresses, agent: false };
    topology.hosts.push(host);
}

/// Connections tried against one old primary.
#[derive(Debug)]
pub(crate) struct Observer(Child);

impl Observer {
    /// Connects to `target` on `node`, before it is frozen; it only reads until it is told to [`watch`](Self::watch).
    pub(crate) fn start(lab: &Lab, target: &Target, node: &str) -> Result<Self, LabError> {
        let kind = match target.kind {
            Kind::Ledger => "ledger",
            Kind::Postgres => "postgres",
        };
        let status = lab.status()?;
        let index = status.topology.host(node).ok_or_else(|| LabError::Refused(format!("no host `{node}`")))?;
        let mac = Topology::mac(index).map(|byte| format!("{byte:02x}")).join(":");
        let child = lab
            .command(OBSERVER, [crate::root::BINARY, "lab-observe", kind, &target.address, &mac])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing("start the observer")?;
        Ok(Self(child))
    }

    /// Ends it, and returns what it saw.
    pub(crate) fn stop(mut self) -> Result<Observed, LabError> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut said).doing("hear the observer")?;
        }
        self.0.wait().doing("wait for the observer")?;
        let line = said.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(std::io::Error::other).doing(format!("understand the observer: {said}"))
    }

    /// The node is frozen: try to write from now on, on the old connection and on new ones. Every acknowledgement is
    /// wrong.
    pub(crate) fn watch(&mut self) -> Result<(), LabError> {
        let stdin = self.0.stdin.as_mut().expect("it is open until the end");
        stdin.write_all(b"watch\n").doing("tell the observer")
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the old primary did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Observed {
    /// Writes it acknowledged while watched.
    pub(crate) acknowledged: u64,
    /// Reads it answered before: shows that the observer reached it at all.
    pub(crate) before: u64,
    /// Tries while watched.
    pub(crate) tries: u64,
}
