//! Whether a ledger answers, as a plan's `check` asks it: more than that its port is open, which a stopped one's is too.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use super::server::LINE_MAX;

/// `tandem ledger-check`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// Where the ledger listens
    #[arg(long)]
    at: SocketAddr,
    /// How long each step of the conversation may take
    #[arg(long, default_value_t = 2_000)]
    patience_ms: u64,
}

/// Prints one line and exits with the codes of monitoring plugins: 0 if the ledger answers, 2 if it does not.
pub(crate) fn check(args: CheckArgs) -> ExitCode {
    match ask(args.at, Duration::from_millis(args.patience_ms.max(1))) {
        Ok(answer) => {
            println!("{} answers: {answer}", args.at);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{} does not answer: {error}", args.at);
            ExitCode::from(2)
        }
    }
}

fn ask(at: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"LAST\n")?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_MAX)).read_until(b'\n', &mut line)?;
    let text = String::from_utf8_lossy(&line).trim().to_owned();
    match text.strip_prefix("LAST ").map(str::parse::<u64>) {
        Some(Ok(_)) => Ok(text),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {text:?}, which is no ledger's answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{server, store::tests::file};
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn a_ledger_answers_and_others_do_not() {
        let file = file(4);
        let ledger = server::tests::start(file.path());
        assert_eq!(ask(ledger, Duration::from_secs(10)).expect("it runs"), "LAST 0");
        // One that was stopped: the kernel accepts, and nobody reads.
        let stopped = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = stopped.local_addr().expect("it is bound");
        let silence = ask(address, PATIENCE).expect_err("nobody answers");
        assert!(matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{silence}");
        let other = std::thread::spawn(move || {
            // The one from above first.
            for _ in 0..2 {
                let (stream, _) = stopped.accept().expect("it listens");
                let _ = (&stream).write_all(b"220 mail.example.net ESMTP\r\n");
            }
        });
        assert_eq!(
            ask(address, Duration::from_secs(10)).expect_err("it is another").kind(),
            io::ErrorKind::InvalidData
        );
        other.join().expect("it ends");
        assert!(ask(address, PATIENCE).is_err(), "nobody listens");
    }
}
