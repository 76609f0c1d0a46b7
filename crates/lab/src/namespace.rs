//! Starts a process in namespaces of its own.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::process::Pid;

use crate::{LabError, error::Doing};

/// The file descriptor on which a host's first process is told what to do.
pub(crate) const CONTROL_FD: i32 = 3;

/// Starts `program` as the first process of a new host: its own network, mounts, process ids, host name and IPC.
///
/// It gets `control` as [`CONTROL_FD`], nothing to read, `log` to write to, and dies with the calling *thread*, which
/// therefore must live as long as the lab.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[&OsStr],
    control: BorrowedFd<'_>,
    log: BorrowedFd<'_>,
) -> Result<Pid, LabError> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).doing("pass a text with a zero byte to a process");
    let path = text(program.as_os_str())?;
    let mut arguments_c = vec![path.clone()];
    for argument in arguments {
        arguments_c.push(text(argument)?);
    }
    let mut environment_c = Vec::new();
    for (key, value) in std::env::vars_os() {
        let mut pair = key;
        pair.push("=");
        pair.push(value);
        environment_c.push(text(&pair)?);
    }
    let pointers =
        |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (pointers(&arguments_c), pointers(&environment_c));
    let nothing = std::fs::File::open("/dev/null").doing("open /dev/null")?;
    // Above the numbers that the child fills, so that one dup2 does not close the source of the next.
    let high = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, CONTROL_FD + 1).doing("copy a descriptor");
    let sources: [OwnedFd; 4] = [high(std::os::fd::AsFd::as_fd(&nothing))?, high(log)?, high(log)?, high(control)?];
    let sources = sources.each_ref().map(AsRawFd::as_raw_fd).into_iter().zip(0..).collect::<Vec<_>>();

    let flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: `clone_args` is plain numbers, for which all zeroes is a value (clone(2)).
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = u64::from(flags.cast_unsigned());
    clone.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM and with no stack this is a fork: the child has a copy of this memory. Until `execve` it
    // makes only system calls that are safe after a fork of a program with threads (signal-safety(7)), on memory that
    // was prepared above, and it never returns.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone3, &raw mut clone, size_of::<libc::clone_args>());
        if pid == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::setsid();
            for (source, target) in &sources {
                if libc::dup2(*source, *target) < 0 {
                    libc::_exit(126);
                }
            }
            libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
            libc::_exit(127);
        }
        pid
    };
    if pid < 0 {
        return Err(io::Error::last_os_error()).doing("start a process in namespaces of its own");
    }
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the kernel returned a process id"))
}

/// Makes this process root of a new user namespace, so that it may make the others; for users other than root.
///
/// The process must have one thread (unshare(2), `CLONE_NEWUSER`). Inside, user 0 is the user outside: whatever is
/// written belongs to that user.
pub(crate) fn become_root_of_own() -> Result<(), LabError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: only the user namespace changes; no file descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }.doing("make a user namespace")?;
    // A user may map its group only after giving up changing groups (user_namespaces(7)).
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        std::fs::write(format!("/proc/self/{file}"), text).doing(format!("write /proc/self/{file}"))?;
    }
    Ok(())
}
