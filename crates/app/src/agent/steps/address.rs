//! The address of a service, which lasts no longer than the lease.

use super::{Steps, causes};
use crate::agent::{
    node::UNPOISONED,
    service::{Context, Orders},
};
use std::sync::Arc;
use tandem_base::{Instant, ServiceName};
use tandem_net_io::{Cidr, Extended, Installed, NetError, ServiceAddress};
use tandem_node_io::now;
use tokio::{sync::watch, task::JoinHandle};

/// A service address that stands, and the task that makes it last with the lease.
pub(super) struct Standing {
    installed: Installed,
    keeper: JoinHandle<()>,
}

impl Steps {
    fn service_address(&self) -> Result<ServiceAddress, String> {
        let address = self.spec.address.ok_or("the service has no address")?;
        let cidr = Cidr::new(address.ip, address.prefix_len).map_err(causes)?;
        Ok(ServiceAddress { cidr, interface: None })
    }

    fn lease_until(&self) -> Result<Instant, String> {
        self.orders.borrow().lease_until.ok_or_else(|| "this node holds no lease".into())
    }

    pub(super) async fn install_address(&self) -> Result<(), String> {
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
        let address = Standing { installed: installed.clone(), keeper };
        if let Some(old) = self.standing.lock().expect(UNPOISONED).address.replace(address) {
            old.keeper.abort();
        }
        network.announce(&installed).await.map_err(causes)
    }

    pub(super) async fn remove_address(&self) -> Result<(), String> {
        let standing = self.standing.lock().expect(UNPOISONED).address.take();
        let network = &self.context.network;
        match standing {
            Some(Standing { installed, keeper }) => {
                keeper.abort();
                // Once it is over it does not put the address back.
                let _ = keeper.await;
                network.remove(&installed).await.map_err(causes)
            }
            None => network.remove_leftovers(&[self.service_address()?.cidr]).await.map(drop).map_err(causes),
        }
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
