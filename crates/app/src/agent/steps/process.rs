//! The program of a service.

use super::{Steps, causes};
use crate::agent::node::UNPOISONED;
use std::{path::Path, sync::atomic::Ordering};
use tandem_base::Duration;
use tandem_cluster::service::{Input, Step};
use tandem_node_io::{Cgroups, ProcessSpec, ServiceProcesses, check, mount, now};

impl Steps {
    fn processes(&self) -> Result<ServiceProcesses, String> {
        let cgroups = Cgroups::detect(self.context.node.as_str());
        ServiceProcesses::new(self.context.paths.run_dir.join("services"), cgroups).map_err(causes)
    }

    pub(super) async fn start_process(&self) -> Result<(), String> {
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
                let argv = self.argv(&run.process)?;
                let mut spec =
                    ProcessSpec::new(name, argv, self.context.paths.run_dir.join(format!("services/{name}.log")));
                for (key, value) in &run.env {
                    spec.env.push((key.into(), self.fill(value)?.into()));
                }
                spec.user.clone_from(&run.user);
                if let Some(dir) = &run.dir {
                    spec.directory = Some(self.fill(dir)?.into());
                }
                // Before it runs, so that nothing that befalls this agent lets it run beyond the lease.
                if let Some(confinement) = processes.confine(name).map_err(causes)? {
                    self.context.guard.register(name, &confinement).await.map_err(causes)?;
                }
                processes.start(&spec).await.map_err(causes)?
            }
        };
        let confinement = process.confinement().clone();
        self.standing.lock().expect(UNPOISONED).process = Some(process);
        self.context.guard.register(name, &confinement).await.map_err(causes)
    }

    pub(super) async fn stop_process(&self, force: bool) -> Result<(), String> {
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
            let failed = match self.argv(words) {
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

    pub(super) async fn watch_process(&self) -> Input {
        let process = self.standing.lock().expect(UNPOISONED).process.clone();
        let why = match process {
            Some(process) => format!("the process ended with {}", process.exited().await),
            None => "there is no process".into(),
        };
        Input::MonitorFailed { step: Step::Process, why }
    }
}
