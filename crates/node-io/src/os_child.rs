//! System calls that may hang for ever, made in a child process that can be left behind.
//!
//! A mount or an unmount of a device that stalls sleeps until the device answers. A thread that sleeps so cannot be
//! ended; a process often can, and if not it holds nothing of ours.

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::io;
use tandem_base::Duration;
use tokio::io::Interest;

/// How a call in a child ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It returned.
    Returned(io::Result<()>),
    /// It did not return in time; the child was killed, or lingers unkillable.
    TimedOut,
}

/// Calls `call` in a child process and waits for at most `timeout`.
///
/// `call` runs between fork and exit: it must do system calls only, and neither allocate nor take a lock
/// (signal-safety(7)). Every file but the standard ones is closed there, since a child that lingers would hold locks and
/// ports against the next agent. Only its error number comes back.
pub(crate) async fn call(timeout: Duration, call: impl FnOnce() -> io::Result<()>) -> io::Result<Ended> {
    // SAFETY: the child calls only `call`, which by this function's contract is async-signal-safe, and `_exit`.
    let forked = unsafe { libc::fork() };
    if forked == 0 {
        // SAFETY: close_range(2) touches no memory; nothing in this copy of the process uses its files any more.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
        let code = match call() {
            Ok(()) => 0,
            // The largest errno is 133 (EHWPOISON), so all fit an exit code.
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        // SAFETY: ends the child without running destructors or exit handlers of the parent's.
        unsafe { libc::_exit(code) }
    }
    let pid = Pid::from_raw(forked).ok_or_else(io::Error::last_os_error)?;
    if forked < 0 {
        return Err(io::Error::last_os_error());
    }
    let ended = crate::clock::watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?)?;
    let mut child = Child { pid, ended: Some(ended) };
    match tokio::time::timeout(timeout.into(), child.wait()).await {
        Ok(code) => match code? {
            0 => Ok(Ended::Returned(Ok(()))),
            errno => Ok(Ended::Returned(Err(io::Error::from_raw_os_error(errno)))),
        },
        Err(_) => Ok(Ended::TimedOut),
    }
}

/// A child that is killed when nobody waits for it any more: after its time, and when the step that made it was given up.
struct Child {
    pid: Pid,
    /// Tells its end; `None` once it was waited for.
    ended: Option<tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>>,
}

impl Child {
    async fn wait(&mut self) -> io::Result<i32> {
        let ended = self.ended.as_ref().expect("a child is waited for once");
        let code = wait(ended, self.pid).await;
        self.ended = None;
        code
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        let pid = self.pid;
        // It is our child and not waited for yet, so the number is still its own.
        let _ = kill_process(pid, Signal::KILL);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { wait(&ended, pid).await });
        }
    }
}

async fn wait(ended: &tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>, pid: Pid) -> io::Result<i32> {
    ended
        .async_io(Interest::READABLE, |_| match waitpid(Some(pid), WaitOptions::NOHANG)? {
            // A child that was killed did not do what it was asked to.
            Some((_, status)) => Ok(status.exit_status().unwrap_or(libc::EINTR)),
            None => Err(io::ErrorKind::WouldBlock.into()),
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_and_a_hanging_call_is_left_behind() {
        let second = Duration::from_secs(10);
        assert!(matches!(call(second, || Ok(())).await, Ok(Ended::Returned(Ok(())))));
        let refused = call(second, || Err(io::Error::from_raw_os_error(libc::EBUSY))).await;
        assert!(matches!(refused, Ok(Ended::Returned(Err(error))) if error.raw_os_error() == Some(libc::EBUSY)));
        let hung = call(Duration::from_millis(20), || {
            loop {
                rustix::event::pause();
            }
        });
        assert!(matches!(hung.await, Ok(Ended::TimedOut)));
    }

    #[tokio::test]
    async fn a_child_that_lingers_holds_no_file_of_ours() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let hung = tokio::spawn(call(Duration::from_secs(600), || {
            loop {
                rustix::event::pause();
            }
        }));
        tokio::task::yield_now().await;
        drop(writer);
        let read = tokio::task::spawn_blocking(move || io::Read::read(&mut &reader, &mut [0]));
        assert_eq!(
            read.await.expect("it returns").expect("a pipe can be read"),
            0,
            "somebody still holds the other end"
        );
        assert!(!hung.is_finished());
        hung.abort();
    }
}
