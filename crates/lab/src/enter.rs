//! Runs a program inside a host of a living lab.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitCode},
};

use rustix::{
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use crate::{Lab, LabError, cgroup, directory::Directory, error::Doing, root};

/// Joins the namespaces of `host` of the lab in `path`, runs `program` there and ends as it does.
///
/// The process must have one thread (setns(2)).
pub(crate) fn run(path: &Path, host: &OsStr, program: &[OsString]) -> Result<ExitCode, LabError> {
    let host = host.to_string_lossy();
    let lab = Lab::at(&Directory::at(path))?;
    let status = lab.status()?;
    let known = status.hosts.iter().find(|known| known.name == host);
    let known = known.ok_or_else(|| LabError::Refused(format!("this lab has no host `{host}`")))?;
    let pid = known.pid.and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| LabError::Refused(format!("`{host}` is down")))?;
    let (name, arguments) = program.split_first().ok_or_else(|| LabError::Refused("no program was given".into()))?;

    let first = pidfd_open(pid, PidfdFlags::empty()).doing(format!("find the first process of `{host}`"))?;
    let mut spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    let user = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).doing("look at a user namespace");
    if user("self")? != user(&pid.as_raw_nonzero().to_string())? {
        spaces |= ThreadNameSpaceType::USER;
    }
    cgroup::follow(pid);
    move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&first), spaces).doing(format!("enter `{host}`"))?;

    let path = std::env::var("PATH").unwrap_or_default();
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("PATH", format!("{}:{path}", root::BINARY_DIRECTORY)) };
    let mut command = Command::new(name);
    command.args(arguments);
    // SAFETY: `prctl` is safe between fork and exec, and touches no memory.
    unsafe {
        command.pre_exec(|| {
            // The program is another process, as only children enter a process id namespace: end it with this one.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let mut child = command.spawn().doing(format!("run {} in `{host}`", name.display()))?;
    let ended = child.wait().doing(format!("wait for {}", name.display()))?;
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
