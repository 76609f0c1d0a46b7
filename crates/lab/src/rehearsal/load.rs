//! What a database has to bear and to show beside the client's own writes.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use crate::{
    Lab, LabError, OUTSIDE,
    error::Doing,
    rehearsal::{
        bounded,
        client::{Kind, Target},
    },
};

/// Where Debian keeps the programs that its wrappers in `/usr/bin` do not reach.
const PATH: &str = "PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)";

/// `pgbench` from outside, for as long as the scenario lasts; it begins again whenever its connections break.
#[derive(Debug)]
pub(crate) struct Load(Child);

impl Load {
    /// Fills `target`'s tables on the node that serves it, where no line slows that down, and starts; `None` for what is no
    /// PostgreSQL.
    pub(crate) fn start(lab: &Lab, target: &Target, serving: &str, log: &Path) -> Result<Option<Self>, LabError> {
        if target.kind != Kind::Postgres {
            return Ok(None);
        }
        let connection = connection(target);
        // With a checkpoint, as a database that has run for a while has one behind it: else the first shutdown would write
        // all of these tables over the line.
        let fill = format!(
            "{PATH}; set -e; pgbench {connection} -i -s 1 --quiet postgres; psql {connection} -qc checkpoint postgres"
        );
        let filled = bounded::output(lab.command(serving, ["sh", "-c", &fill]), Duration::from_secs(120));
        let filled = filled.doing("fill the tables of pgbench")?;
        if !filled.status.success() {
            return Err(LabError::Command {
                node: serving.into(),
                command: "pgbench -i".into(),
                ended: filled.status.to_string(),
                output: String::from_utf8_lossy(&filled.stderr).trim().into(),
            });
        }
        let run = format!(
            "{PATH}; PGCONNECT_TIMEOUT=1; export PGCONNECT_TIMEOUT
             while :; do timeout -k 1 3 pgbench {connection} -n -c 2 -T 3600 postgres; sleep 0.2; done"
        );
        let log = std::fs::File::options().create(true).append(true).open(log).doing("open pgbench's log")?;
        let child = lab
            .command(OUTSIDE, ["sh", "-c", &run])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing("start pgbench")?;
        Ok(Some(Self(child)))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks for damage on the node that serves `target`: `pg_amcheck` where it is there, and a full dump in any case. Returns
/// what is wrong, if anything.
pub(crate) fn damage(lab: &Lab, target: &Target, serving: &str) -> Result<Option<String>, LabError> {
    if target.kind != Kind::Postgres {
        return Ok(None);
    }
    let connection = connection(target);
    let check = format!(
        "{PATH}; set -e; pg_dumpall {connection} >/dev/null
         if command -v pg_amcheck >/dev/null; then pg_amcheck {connection} --install-missing --heapallindexed --all; fi"
    );
    let checked = bounded::output(lab.command(serving, ["sh", "-c", &check]), Duration::from_secs(120));
    let checked = checked.doing("look for damage in the database")?;
    if checked.status.success() {
        return Ok(None);
    }
    let said = [checked.stdout, checked.stderr].concat();
    Ok(Some(String::from_utf8_lossy(&said).trim().to_owned()))
}

fn connection(target: &Target) -> String {
    let (host, port) = target.address.rsplit_once(':').unwrap_or((&target.address, "5432"));
    format!("-h {} -p {port} -U postgres", host.trim_matches(['[', ']']))
}
