//! How each step of a service is done on this node.
//!
//! Every start adopts what an earlier agent left standing for the same promotion, so an agent's restart interrupts
//! nothing; every stop also ends what it finds of earlier ones.

use super::{
    group::{Group, Serving},
    node::UNPOISONED,
    service::{Context, Orders},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tandem_base::{Duration, Epoch, Instant, ServiceName, VolumeName};
use tandem_cluster::service::{Input, Step};
use tandem_net_io::{Cidr, Extended, Installed, NetError, ServiceAddress};
use tandem_node_io::{
    AttachDriver, AttachDrivers, AttachSpec, Cgroups, MountSpec, ProcessSpec, ServiceProcess, ServiceProcesses, check,
    mkfs, mount, now,
};
use tandem_plan::{Attach, Placeholder, Plan, Probe, Template};
use tandem_volume_io::export::Export;
use tokio::{sync::watch, task::JoinHandle};

/// How long a driver may take until it says that it is ready; the step's own limit may end it earlier.
const DRIVER_READY_WITHIN: Duration = Duration::from_secs(30);

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
    address: Option<Address>,
    process: Option<ServiceProcess>,
}

/// A service address that stands, and the task that makes it last with the lease.
struct Address {
    installed: Installed,
    keeper: JoinHandle<()>,
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

    // Volumes.

    async fn attach(&self) -> Result<(), String> {
        let group = self.group.as_ref().ok_or("the group of this service has no replica here")?;
        let mut serving = group.serving.clone();
        let serving = serving.wait_for(Option::is_some).await.map_err(|_| "the agent ends")?.clone();
        let Serving { promotion, nbd_socket } = serving.expect("it was waited for");
        let drivers = self.drivers()?;
        let (mut paths, mut running) = (BTreeMap::new(), Vec::new());
        for volume in &self.spec.volumes {
            let attach = self.plan.volumes.get(volume).expect("a plan declares its services' volumes").attach;
            if attach == Attach::Nbd {
                paths.insert(volume.clone(), nbd_socket.clone());
                continue;
            }
            let name = driver_name(volume, promotion);
            self.detach_others(&drivers, volume, Some(&name), true).await?;
            let driver = match drivers.adopt(&name).await.map_err(causes)? {
                Some(driver) => driver,
                None => {
                    let spec = AttachSpec {
                        argv: self.driver_command(attach, volume, promotion, &nbd_socket, &name)?,
                        name,
                        ready_within: DRIVER_READY_WITHIN,
                    };
                    drivers.start(&spec).await.map_err(causes)?
                }
            };
            paths.insert(volume.clone(), driver.path().to_path_buf());
            running.push(driver);
        }
        let mut standing = self.standing.lock().expect(UNPOISONED);
        (standing.promotion, standing.paths, standing.drivers) = (Some(promotion), paths, running);
        Ok(())
    }

    /// Ends attachments whose promotion is over; the rest of a detach follows in its place. Whether there were any.
    async fn end_lost_drivers(&self) -> Result<bool, String> {
        let Some(group) = &self.group else { return Ok(false) };
        let current = group.orders.borrow().config.primary.as_ref().map(|primary| primary.promotion);
        let drivers = self.drivers()?;
        let mut lost = false;
        for volume in &self.spec.volumes {
            let keep = current.map(|promotion| driver_name(volume, promotion));
            lost |= self.detach_others(&drivers, volume, keep.as_deref(), true).await?;
        }
        Ok(lost)
    }

    async fn detach(&self, force: bool) -> Result<(), String> {
        {
            let mut standing = self.standing.lock().expect(UNPOISONED);
            standing.promotion = None;
            standing.paths.clear();
            standing.drivers.clear();
        }
        let drivers = self.drivers()?;
        for volume in &self.spec.volumes {
            self.detach_others(&drivers, volume, None, force).await?;
        }
        Ok(())
    }

    /// Ends every attachment of `volume` but `keep`. Whether there was any.
    async fn detach_others(
        &self,
        drivers: &AttachDrivers,
        volume: &VolumeName,
        keep: Option<&str>,
        force: bool,
    ) -> Result<bool, String> {
        let prefix = format!("{volume}@");
        let mut any = false;
        for name in drivers.recorded().map_err(causes)? {
            if !name.starts_with(&prefix) || keep == Some(&name) {
                continue;
            }
            any = true;
            if let Some(driver) = drivers.adopt(&name).await.map_err(causes)? {
                driver
                    .stop(if force { Duration::from_secs(1) } else { self.spec.stop_timeout })
                    .await
                    .map_err(causes)?;
            }
            // A driver that was killed leaves its mount: nobody serves it any more.
            let _ = rustix::mount::unmount(self.mountpoint(&name), rustix::mount::UnmountFlags::DETACH);
        }
        Ok(any)
    }

    fn drivers(&self) -> Result<AttachDrivers, String> {
        AttachDrivers::new(self.context.paths.run_dir.join("attach")).map_err(causes)
    }

    fn mountpoint(&self, driver: &str) -> PathBuf {
        self.context.paths.run_dir.join("attached").join(driver)
    }

    fn driver_command(
        &self,
        attach: Attach,
        volume: &VolumeName,
        promotion: Epoch,
        socket: &Path,
        name: &str,
    ) -> Result<Vec<OsString>, String> {
        let verb = if attach == Attach::Device { "attach-device" } else { "attach-file" };
        let export = Export { volume: volume.clone(), promotion: Some(promotion) };
        Ok(vec![
            std::env::current_exe().map_err(causes)?.into(),
            verb.into(),
            "--socket".into(),
            socket.into(),
            "--export".into(),
            export.to_string().into(),
            "--mountpoint".into(),
            self.mountpoint(name).into(),
        ])
    }

    /// The attachment is lost once the register shows that its promotion is over, or once a driver has ended.
    async fn watch_attachment(&self) -> Input {
        let (promotion, drivers) = {
            let standing = self.standing.lock().expect(UNPOISONED);
            (standing.promotion, standing.drivers.clone())
        };
        let Some(group) = &self.group else { return std::future::pending().await };
        let mut orders = group.orders.subscribe();
        let superseded = async move {
            let over = |orders: &super::group::Orders| {
                orders.config.primary.as_ref().map(|primary| primary.promotion) != promotion
            };
            let successor = orders.wait_for(over).await.ok().map(|orders| orders.config.primary.clone());
            match successor {
                Some(Some(primary)) => format!("{} serves the group since epoch {}", primary.node, primary.promotion),
                Some(None) => "nobody serves the group any more".to_owned(),
                // The agent ends.
                None => std::future::pending().await,
            }
        };
        let mut given_up = group.ended.clone();
        let given_up = async move {
            let over =
                |ended: &Option<(Epoch, String)>| ended.as_ref().is_some_and(|(over, _)| Some(*over) == promotion);
            match given_up.wait_for(over).await.ok().and_then(|ended| ended.clone()) {
                Some((_, why)) => why,
                // The agent ends.
                None => std::future::pending().await,
            }
        };
        let ended = async move {
            let ends = drivers.iter().map(|driver| Box::pin(driver.ended()));
            let ends: Vec<_> = ends.collect();
            if ends.is_empty() { std::future::pending().await } else { futures_util::future::select_all(ends).await.0 }
        };
        tokio::select! {
            why = superseded => Input::AttachmentLost { why },
            why = given_up => Input::AttachmentLost { why },
            exit = ended => Input::AttachmentLost { why: format!("an attach driver ended with {exit}") },
        }
    }

    // Mounts.

    async fn mount(&self) -> Result<(), String> {
        for planned in &self.spec.mounts {
            let device = self.path_of(Some(&planned.volume)).ok_or("the volume is not attached")?;
            let filesystem = match planned.filesystem {
                tandem_plan::Filesystem::Ext4 => mkfs::FileSystem::Ext4,
                other => return Err(format!("{} is not carried out yet", other.as_str())),
            };
            let prepared = mkfs::make_if_blank(&device, filesystem, self.spec.start_timeout).await.map_err(causes)?;
            if prepared == mkfs::Prepared::Made {
                let what = format!(
                    "service {}: {} made on volume {}",
                    self.name(),
                    planned.filesystem.as_str(),
                    planned.volume
                );
                self.context.proposer.note(what, "the volume was empty");
            }
            let spec = MountSpec {
                device,
                target: planned.path.as_str().into(),
                file_system: filesystem,
                options: Vec::new(),
                timeout: self.spec.start_timeout,
            };
            mount::mount(&spec).await.map_err(causes)?;
        }
        Ok(())
    }

    async fn unmount(&self, force: bool) -> Result<(), String> {
        for planned in self.spec.mounts.iter().rev() {
            let within = if force { Duration::from_secs(1) } else { self.spec.stop_timeout };
            mount::unmount(Path::new(&planned.path), within, force).await.map_err(causes)?;
        }
        Ok(())
    }

    // The address.

    fn service_address(&self) -> Result<ServiceAddress, String> {
        let address = self.spec.address.ok_or("the service has no address")?;
        let cidr = Cidr::new(address.ip, address.prefix_len).map_err(causes)?;
        Ok(ServiceAddress { cidr, interface: None })
    }

    fn lease_until(&self) -> Result<Instant, String> {
        self.orders.borrow().lease_until.ok_or_else(|| "this node holds no lease".into())
    }

    async fn install_address(&self) -> Result<(), String> {
        let network = &self.context.network;
        let (address, mut orders) = (self.service_address()?, self.orders.clone());
        let installed = loop {
            orders.borrow_and_update();
            match network.install(&address, self.lease_until()?).await {
                // What is left of the lease is too little for an address; the next renewal is on its way.
                Err(NetError::LeaseTooShort { .. }) => orders.changed().await.map_err(causes)?,
                installed => break installed.map_err(causes)?,
            }
        };
        let keeper = tokio::spawn(keep_address(
            self.context.clone(),
            self.name().clone(),
            installed.clone(),
            self.orders.clone(),
        ));
        let address = Address { installed: installed.clone(), keeper };
        if let Some(old) = self.standing.lock().expect(UNPOISONED).address.replace(address) {
            old.keeper.abort();
        }
        network.announce(&installed).await.map_err(causes)
    }

    async fn remove_address(&self) -> Result<(), String> {
        let standing = self.standing.lock().expect(UNPOISONED).address.take();
        let network = &self.context.network;
        match standing {
            Some(Address { installed, keeper }) => {
                keeper.abort();
                // Once it is over it does not put the address back.
                let _ = keeper.await;
                network.remove(&installed).await.map_err(causes)
            }
            None => network.remove_leftovers(&[self.service_address()?.cidr]).await.map(drop).map_err(causes),
        }
    }

    // The process.

    fn processes(&self) -> Result<ServiceProcesses, String> {
        let cgroups = Cgroups::detect(self.context.node.as_str());
        ServiceProcesses::new(self.context.paths.run_dir.join("services"), cgroups).map_err(causes)
    }

    async fn start_process(&self) -> Result<(), String> {
        let run = self.spec.run.as_ref().ok_or("the service runs no process")?;
        let processes = self.processes()?;
        let name = self.name().as_str();
        // A process that an earlier agent left may hold files of an attachment that is gone: only one that was started
        // for this promotion goes on.
        let marker = self.context.paths.run_dir.join("services").join(format!("{name}.promotion"));
        let promotion =
            self.standing.lock().expect(UNPOISONED).promotion.map(|epoch| epoch.to_string()).unwrap_or_default();
        let adopted = match processes.adopt(name).await.map_err(causes)? {
            Some(process) if std::fs::read_to_string(&marker).is_ok_and(|of| of == promotion) => Some(process),
            Some(process) => {
                process.stop(Duration::ZERO).await.map_err(causes)?;
                None
            }
            None => None,
        };
        let process = match adopted {
            Some(process) => process,
            None => {
                std::fs::write(&marker, &promotion).map_err(causes)?;
                let mut argv = Vec::new();
                for word in &run.process {
                    argv.push(OsString::from(self.fill(word)?));
                }
                if argv.first().is_some_and(|program| program == "tandem") {
                    argv[0] = std::env::current_exe().map_err(causes)?.into();
                }
                let mut spec =
                    ProcessSpec::new(name, argv, self.context.paths.run_dir.join(format!("services/{name}.log")));
                for (key, value) in &run.env {
                    spec.env.push((key.into(), self.fill(value)?.into()));
                }
                spec.user.clone_from(&run.user);
                if let Some(dir) = &run.dir {
                    spec.directory = Some(self.fill(dir)?.into());
                }
                processes.start(&spec).await.map_err(causes)?
            }
        };
        let confinement = process.confinement().clone();
        self.standing.lock().expect(UNPOISONED).process = Some(process);
        self.context.guard.register(name, &confinement).await.map_err(causes)
    }

    async fn stop_process(&self, force: bool) -> Result<(), String> {
        let standing = self.standing.lock().expect(UNPOISONED).process.take();
        let process = match standing {
            Some(process) => Some(process),
            None => self.processes()?.adopt(self.name().as_str()).await.map_err(causes)?,
        };
        if let Some(process) = process {
            if !force && process.exit().is_none() && !self.unwell.load(Ordering::Relaxed) {
                self.prepare_stop().await;
            }
            process.stop(if force { Duration::ZERO } else { self.spec.stop_timeout }).await.map_err(causes)?;
        }
        self.context.guard.forget(self.name().as_str()).await.map_err(causes)
    }

    /// While the service still answers: runs the plan's command, then writes out what its mounts hold back, so that the
    /// stop and the unmount, in which nobody is served, have little left to do. What does not work here costs time later,
    /// and nothing else.
    async fn prepare_stop(&self) {
        let within = Duration::from_nanos(self.spec.stop_timeout.as_nanos() / 2);
        let began = now();
        if let Some(words) = self.spec.run.as_ref().map(|run| &run.before_stop).filter(|words| !words.is_empty()) {
            let argv: Result<Vec<OsString>, String> = words.iter().map(|word| Ok(self.fill(word)?.into())).collect();
            let failed = match argv {
                Ok(argv) => {
                    let ran = check::command(&argv, &[], within).await;
                    (ran.status != check::CheckStatus::Ok).then_some(ran.line)
                }
                Err(why) => Some(why),
            };
            if let Some(why) = failed {
                self.context
                    .proposer
                    .note(format!("service {}: `before_stop` failed; it stops all the same", self.name()), &why);
            }
        }
        for planned in &self.spec.mounts {
            let left = within.saturating_sub(now().since(began));
            if let Err(error) = mount::sync(Path::new(&planned.path), left).await {
                tracing::warn!(service = %self.name(), error = causes(error), "not written out before the stop");
            }
        }
    }

    async fn watch_process(&self) -> Input {
        let process = self.standing.lock().expect(UNPOISONED).process.clone();
        let why = match process {
            Some(process) => format!("the process ended with {}", process.exited().await),
            None => "there is no process".into(),
        };
        Input::MonitorFailed { step: Step::Process, why }
    }

    // The check.

    async fn check_once(&self, check: &tandem_plan::Check) -> Result<(), String> {
        let result = match &check.probe {
            Probe::Tcp(address) => {
                let address = self.fill(address)?;
                let address = address.parse().map_err(|_| format!("`{address}` is no address with a port"))?;
                check::tcp(address, check.timeout).await
            }
            Probe::Command(words) => {
                let argv: Result<Vec<OsString>, String> =
                    words.iter().map(|word| Ok(self.fill(word)?.into())).collect();
                check::command(&argv?, &[], check.timeout).await
            }
            _ => return Err("this check is not carried out yet".into()),
        };
        if result.status == check::CheckStatus::Ok { Ok(()) } else { Err(result.line) }
    }

    /// Waits until the service answers; the step's own limit ends it.
    async fn first_check(&self) -> Result<(), String> {
        let Some(check) = &self.spec.check else { return Ok(()) };
        self.unwell.store(false, Ordering::Relaxed);
        while self.check_once(check).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn watch_check(&self) -> Input {
        let Some(check) = &self.spec.check else { return std::future::pending().await };
        let mut failures = 0;
        let mut ticks = tokio::time::interval(check.interval.into());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.check_once(check).await {
                Ok(()) => {
                    failures = 0;
                    self.unwell.store(false, Ordering::Relaxed);
                }
                Err(why) => {
                    failures += 1;
                    self.unwell.store(true, Ordering::Relaxed);
                    tracing::info!(service = %self.name(), why, failures, "the check failed");
                    if failures >= check.failures {
                        return Input::MonitorFailed { step: Step::Check, why };
                    }
                }
            }
        }
    }

    // Templates.

    fn path_of(&self, volume: Option<&VolumeName>) -> Option<PathBuf> {
        let volume = volume.or(self.spec.volumes.first())?;
        self.standing.lock().expect(UNPOISONED).paths.get(volume).cloned()
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

/// Makes an address last with the lease, and announces it again whenever it came back or another machine claims it.
async fn keep_address(
    context: Arc<Context>,
    service: ServiceName,
    installed: Installed,
    mut orders: watch::Receiver<Orders>,
) {
    let network = &context.network;
    let mut claims = network.watch_claims(&installed).ok();
    let mut until = None;
    loop {
        let renewed = orders.borrow_and_update().lease_until;
        if let Some(renewed) = renewed.filter(|at| Some(*at) != until && now() < *at) {
            until = Some(renewed);
            match network.extend(&installed, renewed).await {
                Ok(Extended::Present | Extended::Unchanged) => {}
                Ok(Extended::Restored) => {
                    let _ = network.announce(&installed).await;
                }
                // So short a rest of a lease is renewed soon, or the address goes with it.
                Err(NetError::LeaseTooShort { .. }) => {}
                Err(error) => tracing::warn!(%service, error = causes(error), "cannot keep the address"),
            }
        }
        let claim = async {
            match &mut claims {
                Some(claims) => claims.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            claim = claim => match claim {
                Ok(_) if until.is_none_or(|until| until <= now()) => {}
                Ok(claim) => {
                    let what = format!("service {service}: address {} is claimed by {}", installed.cidr, claim.mac);
                    context.proposer.note(what, "it is announced again from here, which holds the lease");
                    let _ = network.announce(&installed).await;
                }
                Err(error) => {
                    tracing::warn!(%service, error = causes(error), "cannot listen for claims any more");
                    claims = None;
                }
            },
        }
    }
}

/// Names an attachment: one for each promotion of a volume.
fn driver_name(volume: &VolumeName, promotion: Epoch) -> String {
    Export { volume: volume.clone(), promotion: Some(promotion) }.to_string()
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
