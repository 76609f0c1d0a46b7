//! A volume server that ended, hangs, or lost its disk: how it is closed in the register, and when the next one is started.

use super::{
    Ends, Request,
    keeper::{Keeper, LOOK_AGAIN, REGISTER_AGAIN, START_AGAIN},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::time::Duration;
use tandem_base::OpenId;
use tandem_cluster::Command;
use tandem_volume_io::control::Client;

/// How long a server whose disk failed is left alone at first, and at most: a full disk may have been cleared by then, a
/// dying one fails again.
pub(super) const DISK_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// Between two looks whether a failed disk takes writes again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// A replica that ran so long since its disk failed begins with the short rest again.
const DISK_GOOD_AFTER: Duration = Duration::from_secs(600);

impl Keeper {
    /// Returns once a server may be started.
    pub(super) async fn recover(&mut self) -> Result<(), Ends> {
        let mut ended = "the volume server ended".to_owned();
        let mut silent = false;
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                // It is about to open its socket, or to end.
                Ok(None) if self.opened.is_none() => return self.rest(LOOK_AGAIN).await,
                Ok(None) => self.rest(LOOK_AGAIN).await?,
                Ok(Some(status)) => {
                    ended = format!("the volume server ended with {status}");
                    silent = self.opened.is_none() && self.down.borrow().is_none();
                    self.child = None;
                }
                Err(error) => {
                    ended = format!("the volume server is lost: {error}");
                    self.child = None;
                }
            }
        }
        let ran = self.opened.take();
        if let Some(why) = self.disk_failed.take() {
            self.ailing.send_replace(None);
            let ended = format!("its disk failed: {why}");
            if let Some((open, since)) = ran {
                self.over(open, ended.clone());
                if since.elapsed() > DISK_GOOD_AFTER {
                    self.disk_again = DISK_AGAIN[0];
                }
            }
            return self.wait_for_disk(&ended).await;
        }
        if let Some((open, _)) = ran {
            self.over(open, ended);
            return self.rest(START_AGAIN).await;
        }
        if silent {
            self.say_down(format!("{ended} before it could say why; this node's journal has its words"));
        }
        if self.down.borrow().is_some() { self.rest(START_AGAIN).await } else { Ok(()) }
    }

    /// Returns once the disk takes writes again.
    pub(super) async fn wait_for_disk(&mut self, failed: &str) -> Result<(), Ends> {
        let mut next = self.disk_again;
        self.disk_again = (self.disk_again * 2).min(DISK_AGAIN[1]);
        self.say_down(format!("{failed}; the disk is tried again in {} s", next.as_secs()));
        loop {
            self.rest(next).await?;
            match self.probe.try_out(&self.config.directory).await {
                Ok(()) => return Ok(()),
                Err(still) => {
                    next = PROBE_AGAIN;
                    let again = next.as_secs();
                    self.say_down(format!(
                        "{failed}; the disk was tried again and still takes no writes: {still}; tried every {again} s"
                    ));
                }
            }
        }
    }

    /// Waits. Meanwhile questions for the server are not kept, as nobody is there, nor are connections of peers.
    pub(super) async fn rest(&mut self, length: Duration) -> Result<(), Ends> {
        let until = tokio::time::Instant::now() + length;
        let mut again = tokio::time::interval(REGISTER_AGAIN);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                _ = again.tick() => self.close(),
                request = self.requests.recv() => match request {
                    None => return Err(Ends),
                    Some(Request::InjectDiskFault(errno)) => {
                        self.probe.pretend = errno;
                        if errno == 0 {
                            return Ok(());
                        }
                    }
                    Some(Request::Status(_) | Request::PeerSocket(_)) => {}
                },
            }
        }
    }

    pub(super) fn say_down(&self, why: String) {
        self.down.send_if_modified(|down| {
            let news = down.as_ref() != Some(&why);
            if news {
                tracing::warn!(group = %self.config.group, why, "the replica does not run");
                *down = Some(why);
            }
            news
        });
    }

    /// A run of the server is over.
    pub(super) fn over(&mut self, open: OpenId, why: String) {
        tracing::warn!(group = %self.config.group, %open, why, "the replica is closed");
        self.over = Some((open, why));
        self.close();
    }

    /// Tells the register that a run of the server is over, so that nobody waits for it and everybody knows why.
    pub(super) fn close(&self) {
        let Some((open, why)) = &self.over else { return };
        let session = {
            let orders = self.orders.borrow();
            // Where the register does not know of the run yet, the word of it may still be on its way.
            orders.session.filter(|_| orders.registered == Some(*open) && !orders.closed)
        };
        if let Some(session) = session {
            let (group, node) = (self.config.group.clone(), self.config.node.clone());
            let (open, why) = (*open, why.clone());
            self.proposer.propose_in_background(Command::CloseReplica { group, node, session, open, why });
        }
    }

    /// A server whose disk failed is ended, and another replica goes on; the last in-sync one stays, and its initiators
    /// get the error. One that could not even open serves nobody.
    pub(super) fn gives_up_disk(&self) -> bool {
        let orders = self.orders.borrow();
        let in_sync = &orders.config.in_sync;
        let last = !in_sync.is_empty() && in_sync.keys().all(|node| *node == self.config.node);
        self.disk_failed.is_some() && (!last || self.opened.is_none())
    }

    /// Whether this node's replica is primary and another one could go on.
    pub(super) fn may_hand_over(&self) -> bool {
        let orders = self.orders.borrow();
        let config = &orders.config;
        config.primary.as_ref().is_some_and(|primary| primary.node == self.config.node) && config.in_sync.len() > 1
    }

    /// Ends a server that does not end by itself: from then on it answers nobody.
    pub(super) fn kill(&mut self, client: &Client) {
        let pidfd = client.server().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        if let Some(pidfd) = pidfd {
            tracing::error!(group = %self.config.group, "the volume server does not end; it is killed");
            // One that ended meanwhile is what we want.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            self.dying = Some(pidfd);
        }
    }

    /// Whether a killed server is still there: it holds the replica's lock.
    pub(super) fn is_dying(&mut self) -> bool {
        let Some(pidfd) = &self.dying else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Readable once the process has ended (pidfd_open(2)).
        let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0);
        if ended {
            self.dying = None;
        } else if let Some((open, _)) = self.opened.take() {
            let why = self.disk_failed.as_deref().unwrap_or("it hangs").to_owned();
            self.over(open, format!("its disk failed: {why}"));
        }
        !ended
    }
}
