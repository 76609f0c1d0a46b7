//! Runs a program for at most a given time.

use std::{
    io::{self, Read},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// As [`Command::output`], but ends the program after `within` and returns [`io::ErrorKind::TimedOut`].
pub(crate) fn output(mut command: Command, within: Duration) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            // What came before a failure is all there is.
            let _ = from.read_to_end(&mut all);
            all
        })
    };
    let stdout = read(Box::new(child.stdout.take().expect("it was asked for")));
    let stderr = read(Box::new(child.stderr.take().expect("it was asked for")));
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            // Ends the program inside the host too (PR_SET_PDEATHSIG); its own children may hold the streams, so that they
            // are not waited for.
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {} ms", within.as_millis())));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ok(Output { status, stdout: stdout.join().unwrap_or_default(), stderr: stderr.join().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_program_is_ended_and_a_fast_one_is_heard() {
        let mut slow = Command::new("sleep");
        slow.arg("100");
        let error = output(slow, Duration::from_millis(20)).expect_err("it takes longer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut fast = Command::new("sh");
        fast.args(["-c", "echo out; echo err >&2; exit 3"]);
        let heard = output(fast, Duration::from_secs(20)).expect("it ends");
        assert_eq!(
            (heard.status.code(), &heard.stdout[..], &heard.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }
}
