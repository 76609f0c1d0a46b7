//! I2: at most one replica acknowledges in any epoch, and none after a higher epoch has acknowledged.
//!
//! Reason: it is promise 2 as a client sees it. An attachment belongs to a promotion, so the epoch of an answer is its
//! promotion's. Nobody may be able to answer any more when another one is promoted, whether anybody asks just then or not.

use std::collections::BTreeMap;

use tandem_base::Epoch;

use crate::invariants::Violation;

/// Who acknowledged in which promotion.
#[derive(Debug, Default)]
pub(crate) struct Acknowledgements {
    by: BTreeMap<u64, (Epoch, usize)>,
}

impl Acknowledgements {
    pub(crate) fn check(&mut self, node: usize, promotion: Epoch, request: u64) -> Result<(), Violation> {
        if let Some((&number, (epoch, other))) = self.by.last_key_value()
            && number > promotion.number
        {
            let what = format!(
                "node {node} acknowledged request {request} in promotion {promotion}, after node {other} had in {epoch}"
            );
            return Err(Violation::new("I2", what));
        }
        let (epoch, first) = *self.by.entry(promotion.number).or_insert((promotion, node));
        if first != node || epoch != promotion {
            let what = format!("nodes {first} (in {epoch}) and {node} (in {promotion}) acknowledged in one epoch");
            return Err(Violation::new("I2", what));
        }
        Ok(())
    }
}

/// A promotion was committed while another primary serves under a lease.
pub(crate) fn two(node: usize, promotion: Epoch, other: usize, until: u64) -> Violation {
    let what = format!("node {node} was promoted in {promotion} while node {other} may answer for another {until} ms");
    Violation::new("I2", what)
}

/// An answer that came although a later promotion already served, or its attachment had been told that it is over.
pub(crate) fn after_the_end(node: usize, request: u64) -> Violation {
    Violation::new("I2", format!("node {node} acknowledged request {request}, whose attachment had ended"))
}
