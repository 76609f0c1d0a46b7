//! One step of a test run: a command, its time, and what it counted.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Instant,
};

/// How many tests passed and failed so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Runs one command that is a test by itself: it counts one.
    pub(crate) fn check(&mut self, name: &str, command: &mut Command) {
        let succeeded = run(name, command, |_| {});
        self.count(name, succeeded);
    }

    /// Runs `cargo test` and counts what it says of each test binary; a run that fails without counting a failure
    /// (it did not compile) counts as one.
    pub(crate) fn tests(&mut self, name: &str, command: &mut Command) {
        let (mut passed, mut failed) = (0, 0);
        let succeeded = run(name, command, |line| {
            if let Some((ok, bad)) = counts(line) {
                passed += ok;
                failed += bad;
            }
        });
        if !succeeded && failed == 0 {
            failed = 1;
        }
        if failed > 0 {
            self.failures.push(format!("{name} ({failed})"));
        }
        self.passed += passed;
        self.failed += failed;
    }

    fn count(&mut self, name: &str, succeeded: bool) {
        if succeeded {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.into());
        }
    }

    /// Prints what failed, and the closing line.
    pub(crate) fn close(&self) {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

/// Reads `test result: ok. 5 passed; 0 failed; ...`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let before = |word: &str| rest.split(word).next()?.rsplit([' ', '.']).find(|part| !part.is_empty())?.parse().ok();
    Some((before(" passed")?, before(" failed")?))
}

/// Runs `command` with its output shown, each line of its standard output also given to `seen`.
fn run(name: &str, command: &mut Command, mut seen: impl FnMut(&str)) -> bool {
    println!("\n== {name}");
    let started = Instant::now();
    let succeeded = match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
        Err(error) => {
            println!("cannot start {:?}: {error}", command.get_program());
            false
        }
        Ok(mut child) => {
            let output = child.stdout.take().expect("the child's output was asked to be piped");
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                seen(&line);
            }
            child.wait().is_ok_and(|status| status.success())
        }
    };
    println!("-- {name}: {} in {} s", if succeeded { "passed" } else { "FAILED" }, started.elapsed().as_secs());
    let _ = std::io::stdout().flush();
    succeeded
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_summary_of_a_test_binary_is_read() {
        assert_eq!(counts("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured"), Some((12, 0)));
        assert_eq!(counts("test result: FAILED. 11 passed; 3 failed; 0 ignored"), Some((11, 3)));
        assert_eq!(counts("test volume::tests::x ... ok"), None);
    }
}
