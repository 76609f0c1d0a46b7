//! The agent's socket for the local command line.

use crate::api::{Answer, Ask};
use std::{io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// The longest question; anything above it is not one of ours.
const QUESTION_MAX: u64 = 64 * 1024;

/// Whoever answers.
pub(super) trait Oracle: Send + Sync + 'static {
    /// Answers one question; may wait for the cluster's log.
    fn answer(&self, ask: Ask) -> impl Future<Output = Answer> + Send;
}

/// Opens the socket, for root alone, in place of one that an agent before left behind.
///
/// # Errors
///
/// The socket cannot be made. The caller holds the agent's lock, so no other agent is cut off.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for ever, one line for each line.
pub(super) async fn serve<O: Oracle>(listener: UnixListener, oracle: Arc<O>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let oracle = Arc::clone(&oracle);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &*oracle).await {
                        tracing::debug!(%error, "a command went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a command");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<O: Oracle>(stream: UnixStream, oracle: &O) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(QUESTION_MAX)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => oracle.answer(ask).await,
            Err(error) => Answer::Refused { why: format!("not a question this agent knows: {error}"), hint: None },
        };
        let mut text = serde_json::to_vec(&answer).expect("an answer is plain data");
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    Ok(())
}
