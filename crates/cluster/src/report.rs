//! What nodes report of services, and where people move them.

use alloc::{format, string::String};
use tandem_base::{NodeName, ServiceName};

use crate::{Assignment, Failure, Phase, Placement, Refusal, State, Subject};

impl State {
    /// The current assignment, if a report is about it.
    fn reported(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        number: u64,
    ) -> Result<(&mut Placement, Assignment), Refusal> {
        let placement = self.services.get_mut(service).ok_or_else(|| Refusal::UnknownService(service.clone()))?;
        match &placement.assignment {
            Some(current) if current.node == *node && current.placement == number => {
                let current = current.clone();
                Ok((placement, current))
            }
            _ => Err(Refusal::PlacementOver { service: service.clone(), node: node.clone(), placement: number }),
        }
    }

    pub(crate) fn service_started(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        number: u64,
    ) -> Result<(), Refusal> {
        let (placement, current) = self.reported(service, node, number)?;
        if current.phase == Phase::Starting {
            let why = placement.why.clone();
            placement.assignment = Some(Assignment { phase: Phase::Running, ..current });
            self.event(Subject::Service(service.clone(), Some(node.clone())), &format!("runs on {node}"), why);
        }
        Ok(())
    }

    pub(crate) fn service_steady(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        number: u64,
    ) -> Result<(), Refusal> {
        self.service_started(service, node, number)?;
        let (placement, _) = self.reported(service, node, number)?;
        placement.failures.clear();
        Ok(())
    }

    pub(crate) fn service_stopped(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        number: u64,
    ) -> Result<(), Refusal> {
        let (placement, current) = self.reported(service, node, number)?;
        if let Phase::Stopping { to, why } = current.phase.clone() {
            placement.assignment = Some(Assignment { phase: Phase::Releasing { to, why: why.clone() }, ..current });
            self.event(Subject::Service(service.clone(), Some(node.clone())), &format!("stopped on {node}"), why);
        }
        Ok(())
    }

    pub(crate) fn service_failed(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        number: u64,
        why: &str,
    ) -> Result<(), Refusal> {
        let (placement, _) = self.reported(service, node, number)?;
        let failure = placement.failures.entry(node.clone()).or_insert(Failure { count: 0, why: String::new() });
        failure.count += 1;
        failure.why = String::from(why);
        placement.assignment = None;
        self.event(Subject::Service(service.clone(), Some(node.clone())), &format!("failed on {node}"), why);
        Ok(())
    }

    pub(crate) fn move_service(&mut self, service: &ServiceName, to: &NodeName, by: &str) -> Result<(), Refusal> {
        self.known_node(to)?;
        let placement = self.services.get(service).ok_or_else(|| Refusal::UnknownService(service.clone()))?;
        let cannot = |why: String| Refusal::CannotMove { service: service.clone(), to: to.clone(), why };
        if self.paused {
            return Err(cannot(String::from("placement is paused; let it go on first")));
        }
        let current = placement.assignment.clone();
        let live = current.as_ref().is_some_and(|current| self.live_run(&current.node) == Some(current.run));
        let there = current
            .as_ref()
            .is_some_and(|a| live && a.node == *to && matches!(a.phase, Phase::Starting | Phase::Running));
        // What failed there before does not bind a person.
        let tired = self.tired(service, to);
        if let Some(why) = self.obstacle(service, to).filter(|why| !there && tired.as_ref() != Some(why)) {
            return Err(cannot(why));
        }
        let why = format!("{by} moves it to {to}");
        let Some(placement) = self.services.get_mut(service) else { return Ok(()) };
        placement.forgive();
        placement.moved_to = Some(to.clone());
        let Some(mut current) = current.filter(|_| live && !there) else { return Ok(()) };
        let from = current.node.clone();
        current.phase = match current.phase {
            Phase::Releasing { .. } => Phase::Releasing { to: Some(to.clone()), why: why.clone() },
            _ => Phase::Stopping { to: Some(to.clone()), why: why.clone() },
        };
        placement.assignment = Some(current);
        placement.why.clone_from(&why);
        self.event(Subject::Service(service.clone(), Some(from.clone())), &format!("moves from {from} to {to}"), why);
        Ok(())
    }
}
