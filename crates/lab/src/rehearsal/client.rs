//! The client outside the sites: it writes one numbered record after another, and remembers each acknowledgement.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tandem_base::ServiceName;
use tandem_plan::{Plan, Probe, Service};

use crate::{Lab, LabError, OUTSIDE, error::Doing, rehearsal::measure::Ack};

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The embedded ledger.
    Ledger,
    /// PostgreSQL.
    Postgres,
}

/// A service and how it is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) service: ServiceName,
    pub(crate) kind: Kind,
    /// `address:port`, the address in brackets where it is IPv6.
    pub(crate) address: String,
}

impl Target {
    /// How `service` is written to, as its process and its check show; none if no client speaks what it speaks.
    pub(crate) fn of(service: &Service) -> Option<Self> {
        let address = service.address?.ip;
        let run = service.run.as_ref()?;
        let mut words: Vec<String> = run.process.iter().map(ToString::to_string).collect();
        match service.check.as_ref().map(|check| &check.probe) {
            Some(Probe::Tcp(template)) => words.push(template.to_string()),
            Some(Probe::Command(command)) => words.extend(command.iter().map(ToString::to_string)),
            _ => {}
        }
        let says = |what: &str| words.iter().any(|word| word.contains(what));
        let port = words.iter().find_map(|word| word.rsplit_once("{address}:")?.1.parse::<u16>().ok());
        let (kind, port) = if says("ledger-serve") {
            (Kind::Ledger, port?)
        } else if says("postgres") || says("pg_isready") || port == Some(5432) {
            (Kind::Postgres, port.unwrap_or(5432))
        } else {
            return None;
        };
        let address = std::net::SocketAddr::new(address, port).to_string();
        Some(Self { service: service.name.clone(), kind, address })
    }

    /// All services of `plan` that a client can write to.
    pub(crate) fn all(plan: &Plan) -> Vec<Self> {
        plan.services.values().filter_map(Self::of).collect()
    }

    /// The arguments of `tandem rehearse-client`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["rehearse-client", "--kind"];
        match self.kind {
            Kind::Ledger => arguments.extend(["ledger", "--target", &self.address]),
            Kind::Postgres => {
                arguments.extend(["postgres", "--target", &self.address, "--user", "postgres", "--dbname", "postgres"]);
            }
        }
        arguments.into_iter().map(Into::into).collect()
    }
}

/// A line of `tandem rehearse-client`.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    Acked {
        at_ns: u64,
        number: u64,
    },
    Error {
        error: String,
    },
    Lost {
        number: u64,
        last: u64,
    },
    Verified {
        missing: Vec<u64>,
        #[serde(default)]
        missing_count: Option<u64>,
        #[serde(default)]
        damaged: Vec<u64>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Default)]
struct Heard {
    acks: Vec<Ack>,
    /// The latest failed try, until a try succeeds.
    error: Option<String>,
    /// The service does not have what it acknowledged.
    lost: Option<String>,
}

impl Heard {
    /// Takes a line of the client.
    fn take(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Acked { at_ns, number }) => {
                self.acks.push(Ack { at_ns, number });
                self.error = None;
            }
            Ok(Line::Error { error }) => self.error = Some(error),
            Ok(Line::Lost { number, last }) => {
                let acknowledged = number.saturating_sub(1);
                let lost = format!(
                    "an acknowledged write is lost: record {acknowledged} was acknowledged, and the service ends at {last}"
                );
                self.error = Some(lost.clone());
                self.lost = Some(lost);
            }
            Ok(Line::Verified { .. } | Line::Other) => {}
            Err(cause) => tracing::warn!(line, %cause, "the client said something odd"),
        }
    }
}

/// A client that writes.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    listener: Option<std::thread::JoinHandle<()>>,
}

/// What was not there afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) numbers: Vec<u64>,
    /// More than `numbers` has, where the client lists only the first.
    pub(crate) count: u64,
}

impl Client {
    /// Starts writing to `target` from [`OUTSIDE`]; what the client says on its standard error goes to `log`.
    pub(crate) fn start(lab: &Lab, binary: &str, target: &Target, log: &PathBuf) -> Result<Self, LabError> {
        let log = std::fs::File::options().create(true).append(true).open(log).doing("open the client's log")?;
        let mut child = lab
            .command(OUTSIDE, std::iter::once(binary.to_owned()).chain(target.arguments()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .doing("start the client")?;
        let stdout = child.stdout.take().expect("it was asked for");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let hearing = Arc::clone(&heard);
        let listener = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { return };
                    hearing.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
                }
            })
            .doing("start a thread")?;
        let stdin = child.stdin.take();
        Ok(Self { target: target.clone(), child, stdin, heard, listener: Some(listener) })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// All acknowledgements so far.
    pub(crate) fn acks(&self) -> Vec<Ack> {
        self.heard().acks.clone()
    }

    /// The error of the latest try, if it failed.
    pub(crate) fn error(&self) -> Option<String> {
        self.heard().error.clone()
    }

    /// Whether at least `count` writes were acknowledged since `since_ns`, with no gap longer than `gap` until now.
    pub(crate) fn steady(&self, since_ns: u64, now_ns: u64, count: usize, gap: Duration) -> bool {
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        let heard = self.heard();
        let recent = heard.acks.iter().rev().map(|ack| ack.at_ns).take_while(|at| *at >= since_ns);
        let (mut later, mut seen) = (now_ns, 0);
        for at in recent {
            if later.saturating_sub(at) > gap {
                return false;
            }
            later = at;
            seen += 1;
        }
        seen >= count && later.saturating_sub(since_ns) <= gap
    }

    /// Stops writing; returns every acknowledgement, and what the service said it does not have, if it said so.
    pub(crate) fn stop(mut self) -> Result<(Vec<Ack>, Option<String>), LabError> {
        if let Some(mut stdin) = self.stdin.take() {
            // It ends at the end of its input, too, and may have ended already.
            let _ = stdin.write_all(b"stop\n");
        }
        self.child.wait().doing("wait for the client")?;
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let lost = self.heard().lost.take();
        Ok((self.acks(), lost))
    }

    /// Asks the service whether it holds every number of `acks`.
    pub(crate) fn verify(lab: &Lab, binary: &str, target: &Target, acks: &[Ack]) -> Result<Missing, LabError> {
        let mut child = lab
            .command(OUTSIDE, std::iter::once(binary.to_owned()).chain(target.arguments()).chain(["--verify".into()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing("start the client's check")?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        let numbers: String = acks.iter().map(|ack| format!("{}\n", ack.number)).collect();
        // In a thread, as it may answer before it has read all.
        let writer = std::thread::spawn(move || stdin.write_all(numbers.as_bytes()));
        let output = child.wait_with_output().doing("wait for the client's check")?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stdout);
        for line in said.lines() {
            if let Ok(Line::Verified { missing, missing_count, damaged }) = serde_json::from_str(line) {
                let count = missing_count.unwrap_or(missing.len() as u64) + damaged.len() as u64;
                return Ok(Missing { numbers: missing.into_iter().chain(damaged).collect(), count });
            }
        }
        Err(LabError::Command {
            node: OUTSIDE.into(),
            command: "tandem rehearse-client --verify".into(),
            ended: output.status.to_string(),
            output: format!("{} {}", said.trim(), String::from_utf8_lossy(&output.stderr).trim()),
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Only of a scenario that was given up; a stopped client has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_is_not_overheard() {
        let mut heard = Heard::default();
        for line in [
            r#"{"event":"started","at_ns":1,"number":1}"#,
            r#"{"event":"acked","at_ns":2,"number":1,"latency_us":5}"#,
            r#"{"event":"error","at_ns":3,"number":2,"error":"no answer"}"#,
            r#"{"event":"acked","at_ns":4,"number":2,"latency_us":5}"#,
            "noise",
        ] {
            heard.take(line);
        }
        assert_eq!((heard.acks.len(), &heard.error, &heard.lost), (2, &None, &None));
        heard.take(r#"{"event":"lost","at_ns":5,"number":3,"last":1}"#);
        let lost = heard.lost.expect("it was said");
        assert!(lost.contains("record 2 was acknowledged") && lost.contains("ends at 1"), "{lost}");
        assert_eq!(heard.error, Some(lost), "whoever waits for the client hears why it writes no more");
    }
}
