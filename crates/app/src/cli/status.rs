//! `tandem status`.

use super::{Failure, print_json};
use crate::{
    api::{Answer, Ask, Status, ask},
    paths::Paths,
};
use std::process::ExitCode;

/// How to show it.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(paths: &Paths, options: &Options) -> Result<ExitCode, Failure> {
    let Answer::Status(status) = ask(&paths.agent_socket(), &Ask::Status)? else {
        return Err(Failure::new("the agent answered another question"));
    };
    if options.json {
        print_json(&status);
    } else {
        print!("{}", render(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// The one screen. The first line says in a word whether anything needs a person.
fn render(status: &Status) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let headline = match status.degraded.len() {
        0 => "all well".into(),
        1 => "degraded: 1 thing".into(),
        n => format!("degraded: {n} things"),
    };
    let leader = status.leader.as_deref().unwrap_or("nobody known here");
    let lease = status.lease_ms.map_or("no lease".into(), |ms| format!("lease {}.{} s", ms / 1_000, ms % 1_000 / 100));
    let _ = writeln!(out, "plan {}   {headline}", status.plan);
    let _ = writeln!(out, "seen from {} ({lease})   log led by {leader}\n", status.node);
    for line in &status.degraded {
        let _ = writeln!(out, "  ! {line}");
    }
    if !status.degraded.is_empty() {
        out.push('\n');
    }

    let mut table = Columns::new(["NODE", "SITE", "ADDRESS", "STATE"]);
    for node in &status.nodes {
        let state = match (node.admitted, node.live) {
            (false, _) => "never joined",
            (true, true) => "live",
            (true, false) => "silent",
        };
        let role = if node.witness { " (witness)" } else { "" };
        table.row([&node.name, node.site.as_deref().unwrap_or("-"), &node.address, &format!("{state}{role}")]);
    }
    table.print(&mut out);

    let mut table = Columns::new(["GROUP", "PRIMARY", "IN SYNC", "EPOCH"]);
    for group in &status.groups {
        let in_sync = format!("{} of {}: {}", group.in_sync.len(), group.replicas.len(), group.in_sync.join(" "));
        table.row([&group.name, group.primary.as_deref().unwrap_or("-"), &in_sync, &group.epoch.to_string()]);
    }
    table.print(&mut out);

    let mut table = Columns::new(["SERVICE", "NODE", "STATE", "ADDRESS", "WHY"]);
    for service in &status.services {
        let (node, address) = (service.node.as_deref().unwrap_or("-"), service.address.as_deref().unwrap_or("-"));
        table.row([&service.name, node, &service.phase, address, &service.why]);
    }
    table.print(&mut out);
    out
}

/// Left-aligned columns, as wide as their widest cell; nothing at all where there is no row.
struct Columns<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Columns<N> {
    fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(String::from)] }
    }

    fn row(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(String::from));
    }

    fn print(&self, out: &mut String) {
        if self.rows.len() == 1 {
            return;
        }
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{GroupLine, NodeLine, ServiceLine};

    #[test]
    fn a_degraded_cluster_says_so_first() {
        let status = Status {
            plan: "duo".into(),
            node: "h1".into(),
            leader: Some("w1".into()),
            lease_ms: Some(2_740),
            nodes: vec![NodeLine {
                name: "r1".into(),
                site: Some("rouans".into()),
                address: "10.1.0.11:7400".into(),
                witness: false,
                admitted: true,
                live: false,
                trouble: None,
            }],
            groups: vec![GroupLine {
                name: "ledger".into(),
                epoch: 4,
                primary: Some("h1".into()),
                in_sync: vec!["h1".into()],
                replicas: vec!["h1".into(), "r1".into()],
            }],
            services: vec![ServiceLine {
                name: "ledger".into(),
                node: Some("h1".into()),
                phase: "running".into(),
                why: "r1's session expired".into(),
                address: Some("10.9.0.10/24".into()),
            }],
            degraded: vec!["group ledger has a single copy, on h1".into()],
            ..Status::default()
        };
        let screen = "\
plan duo   degraded: 1 thing
seen from h1 (lease 2.7 s)   log led by w1

  ! group ledger has a single copy, on h1

NODE  SITE    ADDRESS         STATE
r1    rouans  10.1.0.11:7400  silent

GROUP   PRIMARY  IN SYNC     EPOCH
ledger  h1       1 of 2: h1  4

SERVICE  NODE  STATE    ADDRESS       WHY
ledger   h1    running  10.9.0.10/24  r1's session expired

";
        assert_eq!(render(&status), screen);
    }
}
