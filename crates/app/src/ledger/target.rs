//! The two kinds of service that the client can write to.

use std::{collections::BTreeMap, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{client::ClientArgs, server::chain};

/// What to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// The embedded ledger
    Ledger,
    /// PostgreSQL, in the table `acked`
    Postgres,
}

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// Try again, on a new connection.
    #[error("{0}")]
    Again(String),
    /// The service has lost what it acknowledged.
    #[error("the last record of the service is {last}")]
    Lost {
        /// Its last record.
        last: u64,
    },
}

impl Failed {
    fn again(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Again(format!("{what}: {}", chain(error)))
    }
}

/// An open connection. What was asked and not answered may still happen: the same number is asked again later.
pub(super) enum Connection {
    Ledger(BufStream<TcpStream>),
    Postgres { client: tokio_postgres::Client, driver: JoinHandle<()> },
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Self::Postgres { driver, .. } = self {
            driver.abort();
        }
    }
}

/// How long PostgreSQL may take from the open connection to its first answer.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);

/// What is written as record `number`.
fn payload(number: u64) -> String {
    format!("record {number}")
}

impl Connection {
    pub(super) async fn open(args: &ClientArgs) -> Result<Self, Failed> {
        let connect = Duration::from_millis(args.connect_timeout_ms);
        let patience = match args.kind {
            Kind::Ledger => connect,
            // A server process is forked for the connection and reads its catalogues before it answers.
            Kind::Postgres => connect + HANDSHAKE_PATIENCE,
        };
        let opened = tokio::time::timeout(patience, Self::connect(args)).await;
        opened.unwrap_or_else(|_| Err(Failed::Again(format!("connect: no answer within {} ms", patience.as_millis()))))
    }

    async fn connect(args: &ClientArgs) -> Result<Self, Failed> {
        match args.kind {
            Kind::Ledger => {
                let stream = TcpStream::connect(args.target).await.map_err(|error| Failed::again("connect", &error))?;
                stream.set_nodelay(true).map_err(|error| Failed::again("connect", &error))?;
                Ok(Self::Ledger(BufStream::new(stream)))
            }
            Kind::Postgres => {
                let mut config = tokio_postgres::Config::new();
                config.host(args.target.ip().to_string()).port(args.target.port());
                config.connect_timeout(Duration::from_millis(args.connect_timeout_ms));
                config.user(&args.user).dbname(&args.dbname).application_name("tandem-rehearse");
                if let Some(password) = &args.password {
                    config.password(password);
                }
                let connected = config.connect(NoTls).await;
                let (client, connection) = connected.map_err(|error| Failed::again("connect", &error))?;
                // Its error comes to the client too, as that of its next query.
                let driver = tokio::spawn(async move { drop(connection.await) });
                Ok(Self::Postgres { client, driver })
            }
        }
    }

    /// Makes what is needed, and returns the last number that is there.
    pub(super) async fn last(&mut self) -> Result<u64, Failed> {
        match self {
            Self::Ledger(stream) => {
                let answer = ask(stream, "LAST").await?;
                parse_tail(&answer, "LAST ").ok_or_else(|| strange(&answer))
            }
            Self::Postgres { client, .. } => {
                query(
                    client,
                    "CREATE TABLE IF NOT EXISTS acked (n bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
                )
                .await?;
                let numbers = query(client, "SELECT coalesce(max(n), 0) FROM acked").await?;
                numbers.first().copied().ok_or_else(|| strange("no row"))
            }
        }
    }

    /// Writes record `number`; returns once the service acknowledged it.
    pub(super) async fn append(&mut self, number: u64) -> Result<(), Failed> {
        match self {
            Self::Ledger(stream) => {
                let answer = ask(stream, &format!("APPEND {number} {}", payload(number))).await?;
                if parse_tail(&answer, "OK ") == Some(number) {
                    return Ok(());
                }
                match parse_tail(&answer, "ERR gap ") {
                    Some(last) => Err(Failed::Lost { last }),
                    None => Err(strange(&answer)),
                }
            }
            Self::Postgres { client, .. } => {
                // If an earlier try is still in progress, the server waits for its outcome before it sees a conflict.
                query(client, &format!("INSERT INTO acked (n) VALUES ({number}) ON CONFLICT DO NOTHING"))
                    .await
                    .map(drop)
            }
        }
    }

    /// All numbers that are there, each with whether it is what was written.
    pub(super) async fn all(&mut self) -> Result<BTreeMap<u64, bool>, Failed> {
        match self {
            Self::Ledger(stream) => {
                let mut found = BTreeMap::new();
                let mut from = 1;
                loop {
                    let mut line = ask(stream, &format!("READ {from} 10000")).await?;
                    while let Some((number, text)) = line.strip_prefix("REC ").and_then(|rest| rest.split_once(' ')) {
                        let number = number.parse().map_err(|_| strange(&line))?;
                        found.insert(number, text == payload(number));
                        line = read_line(stream).await?;
                    }
                    if let Some(number) = parse_tail(&line, "ERR damaged ") {
                        found.insert(number, false);
                        from = number + 1;
                        continue;
                    }
                    let next = parse_tail(&line, "END ").ok_or_else(|| strange(&line))?;
                    if next == from {
                        return Ok(found);
                    }
                    from = next;
                }
            }
            Self::Postgres { client, .. } => {
                let numbers = query(client, "SELECT n FROM acked ORDER BY n").await?;
                Ok(numbers.into_iter().map(|number| (number, true)).collect())
            }
        }
    }
}

async fn ask(stream: &mut BufStream<TcpStream>, line: &str) -> Result<String, Failed> {
    let sent = async {
        stream.write_all(line.as_bytes()).await?;
        stream.write_all(b"\n").await?;
        stream.flush().await
    };
    sent.await.map_err(|error| Failed::again("send", &error))?;
    read_line(stream).await
}

async fn read_line(stream: &mut BufStream<TcpStream>) -> Result<String, Failed> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(0) => Err(Failed::Again("the connection was closed".into())),
        Ok(_) if line.ends_with('\n') => Ok(line.trim_end_matches('\n').into()),
        Ok(_) => Err(Failed::Again("the connection was closed in the middle of an answer".into())),
        Err(error) => Err(Failed::again("receive", &error)),
    }
}

/// Runs a statement; returns the first column of its rows.
async fn query(client: &tokio_postgres::Client, statement: &str) -> Result<Vec<u64>, Failed> {
    let messages = client.simple_query(statement).await.map_err(|error| Failed::again("query", &error))?;
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some(row.get(0).and_then(|text| text.parse().ok()).ok_or_else(|| strange("a row")))
            }
            _ => None,
        })
        .collect()
}

fn parse_tail(line: &str, head: &str) -> Option<u64> {
    line.strip_prefix(head)?.parse().ok()
}

fn strange(answer: &str) -> Failed {
    Failed::Again(format!("the service said `{answer}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{server::tests::start, store::tests::file};
    use clap::Parser;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: ClientArgs,
    }

    fn args(target: std::net::SocketAddr) -> ClientArgs {
        let line = ["rehearse-client", "--kind", "ledger", "--target", &target.to_string()];
        CommandLine::try_parse_from(line).expect("the line is right").args
    }

    #[tokio::test]
    async fn what_was_written_is_found_again_and_what_was_lost_is_told() {
        let kept = file(100);
        let args_kept = args(start(kept.path()));
        let mut connection = Connection::open(&args_kept).await.expect("it listens");
        assert_eq!(connection.last().await, Ok(0));
        for number in 1..=20 {
            connection.append(number).await.expect("there is room");
        }
        // A try whose answer was lost is made again, on another connection.
        let mut again = Connection::open(&args_kept).await.expect("it listens");
        again.append(20).await.expect("it is there");
        assert_eq!(again.last().await, Ok(20));
        let found = again.all().await.expect("it is readable");
        assert!(found.keys().copied().eq(1..=20) && found.values().all(|whole| *whole));

        // A service that goes on from an empty disk has lost them, and never gets number 21.
        let empty = file(100);
        let mut connection = Connection::open(&args(start(empty.path()))).await.expect("it listens");
        assert_eq!(connection.append(21).await, Err(Failed::Lost { last: 0 }));
    }

    #[tokio::test]
    async fn a_silent_or_absent_service_is_given_up_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let mut silent = Connection::open(&args(address)).await.expect("the kernel accepts");
        let asked = tokio::time::timeout(Duration::from_millis(50), silent.last()).await;
        assert!(asked.is_err(), "nobody answers");
        drop(listener);
        assert!(matches!(Connection::open(&args(address)).await, Err(Failed::Again(_))));
    }
}
