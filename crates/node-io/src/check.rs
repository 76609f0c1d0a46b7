//! Checks of a service's health.

use std::{ffi::OsString, fmt, net::SocketAddr, os::unix::process::ExitStatusExt, process::Stdio};
use tandem_base::Duration;
use tokio::{io::AsyncReadExt, net::TcpStream, process::Command};

/// The states of the Nagios plugin convention; their numbers are the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// 0.
    Ok,
    /// 1.
    Warning,
    /// 2.
    Critical,
    /// 3, and whatever is outside the convention.
    Unknown,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        })
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The state.
    pub status: CheckStatus,
    /// One line for people.
    pub line: String,
    /// What the check measured, behind the `|` of its line.
    pub perfdata: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// The most bytes that are read of a check's output; the convention has one line.
const OUTPUT_MAX: u64 = 64 << 10;

/// Whether something accepts TCP connections at `address` within `timeout`. Critical if not.
pub async fn tcp(address: SocketAddr, timeout: Duration) -> CheckResult {
    let began = crate::clock::now();
    let connected = tokio::time::timeout(timeout.into(), TcpStream::connect(address)).await;
    let (status, line) = match connected {
        Ok(Ok(_)) => (CheckStatus::Ok, format!("{address} accepts connections")),
        Ok(Err(error)) => (CheckStatus::Critical, format!("{address}: {error}")),
        Err(_) => (CheckStatus::Critical, format!("{address} does not answer within {timeout}")),
    };
    CheckResult { status, line, perfdata: None, took: crate::clock::now().since(began) }
}

/// Runs a plugin: exit code 0 to 3, one line, performance data behind `|` (Monitoring Plugins Development Guidelines).
///
/// Unknown if it cannot run, is ended by a signal, returns another code, or takes longer than `timeout`; its whole
/// process group is killed then.
pub async fn command(argv: &[OsString], env: &[(OsString, OsString)], timeout: Duration) -> CheckResult {
    let began = crate::clock::now();
    let (status, output) = run(argv, env, timeout).await.unwrap_or_else(|why| (CheckStatus::Unknown, why));
    let first = output.lines().next().unwrap_or("").trim();
    let (line, perfdata) = match first.split_once('|') {
        Some((line, perfdata)) => (line.trim(), Some(perfdata.trim().to_owned())),
        None => (first, None),
    };
    CheckResult { status, line: line.into(), perfdata, took: crate::clock::now().since(began) }
}

async fn run(
    argv: &[OsString],
    env: &[(OsString, OsString)],
    timeout: Duration,
) -> Result<(CheckStatus, String), String> {
    let (program, arguments) = argv.split_first().ok_or("the check has an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    let mut output = Vec::new();
    let ended = async {
        let mut stdout = child.stdout.take().expect("it is piped").take(OUTPUT_MAX);
        stdout.read_to_end(&mut output).await?;
        // Closed here, so that a plugin that says too much ends too.
        drop(stdout);
        child.wait().await
    };
    let ended = tokio::time::timeout(timeout.into(), ended).await;
    if let (Some(group), Err(_)) = (group, &ended) {
        // The first process is our child and not waited for yet, so the number is still the group's.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait().await;
    }
    let status = ended
        .map_err(|_| format!("{} took longer than {timeout}", program.display()))?
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let output = String::from_utf8_lossy(&output).into_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok((CheckStatus::Ok, output)),
        (Some(1), _) => Ok((CheckStatus::Warning, output)),
        (Some(2), _) => Ok((CheckStatus::Critical, output)),
        (Some(3), _) => Ok((CheckStatus::Unknown, output)),
        (Some(code), _) => Err(format!("{} returned {code}: {}", program.display(), output.trim())),
        (None, signal) => Err(format!("{} was ended by signal {}", program.display(), signal.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, timeout: Duration) -> CheckResult {
        command(&["sh", "-c", script].map(OsString::from), &[("WHO".into(), "me".into())], timeout).await
    }

    #[tokio::test]
    async fn plugins_speak_by_code_and_line() {
        let long = Duration::from_secs(20);
        for (code, status) in
            [(0, CheckStatus::Ok), (1, CheckStatus::Warning), (2, CheckStatus::Critical), (3, CheckStatus::Unknown)]
        {
            let result = shell(&format!("echo \"DISK $WHO | free=3GB\"; echo more; exit {code}"), long).await;
            assert_eq!((result.status, result.line.as_str()), (status, "DISK me"));
            assert_eq!(result.perfdata.as_deref(), Some("free=3GB"));
        }
        assert_eq!(shell("echo boo; exit 7", long).await.status, CheckStatus::Unknown);
        assert_eq!(shell("kill -9 $$", long).await.status, CheckStatus::Unknown);
        assert_eq!(command(&[], &[], long).await.status, CheckStatus::Unknown);
        assert_eq!(command(&["/no/such/plugin".into()], &[], long).await.status, CheckStatus::Unknown);
        assert_eq!(shell("yes", Duration::from_secs(20)).await.status, CheckStatus::Unknown);
    }

    #[tokio::test]
    async fn a_hanging_plugin_is_killed_with_its_children() {
        let result = shell("sleep 1000 & wait", Duration::from_millis(100)).await;
        assert_eq!(result.status, CheckStatus::Unknown);
        assert!(result.line.contains("longer than 100 ms"), "{}", result.line);
    }

    #[tokio::test]
    async fn tcp_tells_an_open_port_from_a_closed_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        assert_eq!(tcp(address, Duration::from_secs(10)).await.status, CheckStatus::Ok);
        // Bound and never listening, so that it is closed whatever else this process does.
        let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
        closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
        let address = closed.local_addr().expect("it is bound");
        assert_eq!(tcp(address, Duration::from_secs(10)).await.status, CheckStatus::Critical);
    }
}
