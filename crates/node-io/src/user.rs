//! Users as the system knows them (getpwnam(3), getgrouplist(3)).

use nix::unistd::{Group, User as Passwd, getgrouplist};
use rustix::process::{Gid, Uid};
use std::{ffi::CString, path::PathBuf};

/// Whom a process runs as.
#[derive(Debug, Clone)]
pub struct User {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// No such user.
    #[error("there is no user `{0}` on this machine")]
    NoUser(String),
    /// No such group.
    #[error("there is no group `{0}` on this machine")]
    NoGroup(String),
    /// The user database cannot be read.
    #[error("cannot look up `{name}`")]
    Lookup {
        /// The name asked for.
        name: String,
        /// The system's reason.
        #[source]
        cause: nix::Error,
    },
}

impl User {
    /// Looks `name` up, with all its groups; `group` replaces its primary group.
    ///
    /// # Errors
    ///
    /// [`UserError`] says what is not there.
    pub fn lookup(name: &str, group: Option<&str>) -> Result<Self, UserError> {
        let failed = |cause| UserError::Lookup { name: name.into(), cause };
        let passwd = Passwd::from_name(name).map_err(failed)?.ok_or_else(|| UserError::NoUser(name.into()))?;
        let gid = match group {
            None => passwd.gid,
            Some(group) => {
                let found = Group::from_name(group).map_err(|cause| UserError::Lookup { name: group.into(), cause })?;
                found.ok_or_else(|| UserError::NoGroup(group.into()))?.gid
            }
        };
        let c_name = CString::new(name).map_err(|_| UserError::NoUser(name.into()))?;
        let groups = getgrouplist(&c_name, gid).map_err(failed)?;
        Ok(Self {
            name: passwd.name,
            home: passwd.dir,
            uid: Uid::from_raw(passwd.uid.as_raw()),
            gid: Gid::from_raw(gid.as_raw()),
            groups: groups.into_iter().map(|gid| Gid::from_raw(gid.as_raw())).collect(),
        })
    }

    /// Whether this process is that user already, so that nothing has to be changed (and may not be, without root).
    pub(crate) fn is_self(&self) -> bool {
        rustix::process::geteuid() == self.uid && rustix::process::getegid() == self.gid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nonsense_is_not() {
        let root = User::lookup("root", None).expect("every machine has root");
        assert!(root.uid.is_root());
        assert!(matches!(User::lookup("no-such-user", None), Err(UserError::NoUser(_))));
        assert!(matches!(User::lookup("root", Some("no-such-group")), Err(UserError::NoGroup(_))));
        assert!(User::lookup("nul\0byte", None).is_err());
    }
}
