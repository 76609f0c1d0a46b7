//! How each step of a service is done on this node.
//!
//! Every start adopts what an earlier agent left standing for the same promotion, so an agent's restart interrupts
//! nothing; every stop also ends what it finds of earlier ones.

mod address;
mod attachment;
mod check;
mod mounts;
mod process;

use super::{
    group::Group,
    node::UNPOISONED,
    service::{Context, Orders},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
};
use tandem_base::{Epoch, ServiceName, VolumeName};
use tandem_cluster::service::{Input, Step};
use tandem_node_io::{AttachDriver, ServiceProcess};
use tandem_plan::{Placeholder, Plan, Template};
use tokio::sync::watch;

/// The resources of one service.
pub(super) struct Steps {
    plan: Arc<Plan>,
    spec: tandem_plan::Service,
    group: Option<Arc<Group>>,
    context: Arc<Context>,
    orders: watch::Receiver<Orders>,
    standing: Mutex<Standing>,
    /// The check has found that the service does not answer: nothing is asked of it before a stop.
    unwell: AtomicBool,
}

/// What stands now.
#[derive(Default)]
struct Standing {
    promotion: Option<Epoch>,
    /// Where each volume is: a file, a device, or a socket.
    paths: BTreeMap<VolumeName, PathBuf>,
    drivers: Vec<AttachDriver>,
    address: Option<address::Standing>,
    process: Option<ServiceProcess>,
}

impl Steps {
    pub(super) fn new(
        plan: Arc<Plan>,
        spec: tandem_plan::Service,
        group: Option<Arc<Group>>,
        context: Arc<Context>,
        orders: watch::Receiver<Orders>,
    ) -> Self {
        Self { plan, spec, group, context, orders, standing: Mutex::default(), unwell: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    /// Starts a step; may be dropped while it waits.
    ///
    /// # Errors
    ///
    /// In words, with the causes.
    pub(super) async fn start(&self, step: Step) -> Result<(), String> {
        match step {
            Step::Attach => self.attach().await,
            Step::Mount => self.mount().await,
            Step::Address => self.install_address().await,
            Step::Process => self.start_process().await,
            Step::Check => self.first_check().await,
        }
    }

    /// Stops a step; one that does not run stops well.
    ///
    /// # Errors
    ///
    /// In words, with the causes.
    pub(super) async fn stop(&self, step: Step, force: bool) -> Result<(), String> {
        // Whoever waits for a volume that nobody serves any more waits for ever, and does not even die of SIGKILL: the
        // driver goes first, and what waits fails.
        let force = self.end_lost_drivers().await? || force;
        match step {
            Step::Attach => self.detach(force).await,
            Step::Mount => self.unmount(force).await,
            Step::Address => self.remove_address().await,
            Step::Process => self.stop_process(force).await,
            Step::Check => Ok(()),
        }
    }

    /// Watches a step that started, until it is found not running or not working.
    pub(super) async fn monitor(&self, step: Step) -> Input {
        match step {
            Step::Attach => self.watch_attachment().await,
            Step::Process => self.watch_process().await,
            Step::Check => self.watch_check().await,
            Step::Mount | Step::Address => std::future::pending().await,
        }
    }

    /// The node may act again, and the service is still placed here: lets it run on if its attachment is still good.
    pub(super) fn thaw(&self) {
        let attached = self.standing.lock().expect(UNPOISONED).promotion;
        let current = self
            .group
            .as_ref()
            .and_then(|group| group.orders.borrow().config.primary.as_ref().map(|primary| primary.promotion));
        if attached != current {
            return;
        }
        let guard = self.context.guard.clone();
        let name = self.spec.name.clone();
        tokio::spawn(async move {
            if let Err(error) = guard.thaw(name.as_str()).await {
                tracing::debug!(service = %name, error = causes(error), "not thawed");
            }
        });
    }

    fn path_of(&self, volume: Option<&VolumeName>) -> Option<PathBuf> {
        let volume = volume.or(self.spec.volumes.first())?;
        self.standing.lock().expect(UNPOISONED).paths.get(volume).cloned()
    }

    /// A command of the plan as it is executed: its templates filled, and `tandem` this very program.
    fn argv(&self, words: &[Template]) -> Result<Vec<OsString>, String> {
        let mut argv: Vec<OsString> = Vec::with_capacity(words.len());
        for word in words {
            argv.push(self.fill(word)?.into());
        }
        if argv.first().is_some_and(|program| program == "tandem") {
            argv[0] = std::env::current_exe().map_err(causes)?.into();
        }
        Ok(argv)
    }

    fn fill(&self, template: &Template) -> Result<String, String> {
        let text = |path: Option<PathBuf>| {
            path.map(|path| path.display().to_string()).ok_or_else(|| "the volume is not attached".to_owned())
        };
        template.fill(|placeholder| match placeholder {
            Placeholder::File(volume) | Placeholder::Socket(volume) => text(self.path_of(volume.as_ref())),
            Placeholder::Mount(volume) => {
                let wanted = volume.as_ref().or(self.spec.volumes.first());
                let mount = self.spec.mounts.iter().find(|mount| Some(&mount.volume) == wanted);
                mount.map(|mount| mount.path.clone()).ok_or_else(|| "the volume is not mounted".into())
            }
            Placeholder::Address => self
                .spec
                .address
                .map(|address| address.ip.to_string())
                .ok_or_else(|| "the service has no address".into()),
            Placeholder::Node => Ok(self.context.node.to_string()),
            Placeholder::Service => Ok(self.name().to_string()),
            Placeholder::PlanDir => Ok(self.context.paths.config_dir.display().to_string()),
            other => Err(format!("`{other}` is not carried out yet")),
        })
    }
}

/// An error with its causes, in one line.
fn causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
