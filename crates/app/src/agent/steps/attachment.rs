//! The volumes of a service as files, devices or sockets.

use super::{Steps, causes};
use crate::agent::{
    group::{self, Serving},
    node::UNPOISONED,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};
use tandem_base::{Duration, Epoch, VolumeName};
use tandem_cluster::service::Input;
use tandem_node_io::{AttachDrivers, AttachSpec};
use tandem_plan::Attach;
use tandem_volume_io::export::Export;

/// How long a driver may take until it says that it is ready; the step's own limit may end it earlier.
const DRIVER_READY_WITHIN: Duration = Duration::from_secs(30);

impl Steps {
    pub(super) async fn attach(&self) -> Result<(), String> {
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
    pub(super) async fn end_lost_drivers(&self) -> Result<bool, String> {
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

    pub(super) async fn detach(&self, force: bool) -> Result<(), String> {
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
    pub(super) async fn watch_attachment(&self) -> Input {
        let (promotion, drivers) = {
            let standing = self.standing.lock().expect(UNPOISONED);
            (standing.promotion, standing.drivers.clone())
        };
        let Some(group) = &self.group else { return std::future::pending().await };
        let mut orders = group.orders.subscribe();
        let superseded = async move {
            let over =
                |orders: &group::Orders| orders.config.primary.as_ref().map(|primary| primary.promotion) != promotion;
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
}

/// Names an attachment: one for each promotion of a volume.
fn driver_name(volume: &VolumeName, promotion: Epoch) -> String {
    Export { volume: volume.clone(), promotion: Some(promotion) }.to_string()
}
