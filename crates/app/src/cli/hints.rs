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
    macro_rules! of_the_first_that_fits {
        ($($kind:ty),* $(,)?) => {
            $(if let Some(error) = error.downcast_ref::<$kind>() {
                return error.hint().map(Into::into);
            })*
        };
    }
    of_the_first_that_fits!(
        crate::api::AgentError,
        tandem_lab::LabError,
        tandem_cluster_io::OpenError,
        tandem_cluster_io::join::JoinError,
        tandem_cluster_io::StoreError,
        tandem_cluster_io::identity::IdentityError,
        tandem_volume_io::server::ServerError,
        tandem_volume_io::attach::AttachError,
        tandem_net_io::NetError,
    );
    let denied = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    denied.then(|| AS_ROOT.into())
}

/// What nearly everything needs that is not a look at a plan.
pub(crate) const AS_ROOT: &str = "run this as root, as with `sudo`";
