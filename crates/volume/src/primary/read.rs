//! Reads: from the local disk, after every earlier overlapping write is committed.

use tandem_base::Epoch;

use crate::{
    DiskOpId, DiskOutcome, Replica, Reply, RequestError, RequestId, disk::Job, message::Span, secondary::words,
};

impl Replica {
    /// A write keeps its range locked until its commit, so a read can neither see what may yet be lost, nor pass a write
    /// that came before it; writes that come later wait for it at the disk.
    pub(crate) fn begin_read(&mut self, request: RequestId, span: Span) {
        if span.length == 0 {
            self.ready(request, Ok(Reply::Data(bytes::Bytes::new())));
            return;
        }
        let Some(primary) = &self.primary else { return };
        let job = Job::Read { promotion: primary.promotion, request };
        self.disk.read(job, span, &mut self.outputs);
    }

    pub(crate) fn read_done(&mut self, op: DiskOpId, promotion: Epoch, request: RequestId, outcome: DiskOutcome) {
        self.disk.unlock(op, &mut self.outputs);
        let current = self.primary.as_ref().is_some_and(|primary| primary.promotion == promotion);
        match outcome {
            DiskOutcome::Data(data) if current => {
                self.counters.read_bytes += data.len() as u64;
                self.ready(request, Ok(Reply::Data(data)));
            }
            DiskOutcome::Failed(error) if current => {
                let why = words(&error);
                self.local_refused(error);
                // With other members the answer never leaves: the promotion ends, and the request with it.
                self.ready(request, Err(RequestError::Disk(why)));
            }
            DiskOutcome::Failed(error) => self.fail(error),
            DiskOutcome::Data(_) | DiskOutcome::Done => {}
        }
    }
}
