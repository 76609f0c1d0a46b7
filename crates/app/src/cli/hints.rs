//! The one thing to try, found in whatever error a command ends with.

use std::{error::Error, io};

/// The hint of `error`, or of the first of its causes that has one.
pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(hint) = own(error) {
            return Some(hint);
        }
        next = error.source();
    }
    None
}

fn own(error: &(dyn Error + 'static)) -> Option<String> {
    fn text(hint: Option<&'static str>) -> Option<String> {
        hint.map(Into::into)
    }
    if let Some(error) = error.downcast_ref::<crate::api::AgentError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<tandem_lab::LabError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<tandem_cluster_io::OpenError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_cluster_io::join::JoinError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_cluster_io::StoreError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_cluster_io::identity::IdentityError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_volume_io::server::ServerError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_volume_io::attach::AttachError>() {
        return text(error.hint());
    }
    if let Some(error) = error.downcast_ref::<tandem_net_io::NetError>() {
        return text(error.hint());
    }
    let denied = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    denied.then(|| AS_ROOT.into())
}

/// What nearly everything needs that is not a look at a plan.
pub(crate) const AS_ROOT: &str = "run this as root, as with `sudo`";
