//! The records on a file or device of fixed size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::format::{BLOCK, Record, has_magic};

/// The most records that are written before one sync. What a crash can leave half written lies within as many blocks.
pub(super) const BATCH_MAX: usize = 64;
/// How far behind the end the start looks for what should not be there.
const LOOK_BEHIND: usize = 2048;

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum StoreError {
    /// The file cannot be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// Something else is on the file; it is left alone.
    #[error("{path} is no ledger: block {block} holds something else")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The block, of 512 bytes.
        block: u64,
    },
    /// Records are there behind one that is not: not a crash, but damage.
    #[error("{path} is damaged: record {missing} cannot be read, but record {behind} is there")]
    Hole {
        /// The file.
        path: PathBuf,
        /// The record that cannot be read.
        missing: u64,
        /// One that can.
        behind: u64,
    },
    /// Not even one block.
    #[error("{path} is too small: {size} bytes")]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
}

/// An open ledger. Blocks behind [`last`](Self::last) are zero for at least a batch, so that what a crash left half
/// written never becomes a record later.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    last: u64,
    capacity: u64,
}

impl Store {
    /// Opens the ledger, finds its end, and clears what a crash left behind it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what| move |cause| StoreError::File { what, path: path.to_owned(), cause };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
        // A block device has no length in its metadata.
        let size = file.seek(SeekFrom::End(0)).map_err(failed("measure"))?;
        let capacity = size / BLOCK as u64;
        if capacity == 0 {
            return Err(StoreError::TooSmall { path: path.to_owned(), size });
        }
        let mut store = Self { file, last: 0, capacity };
        store.find_last().map_err(failed("read"))?;
        store.clear_behind(path)?;
        Ok(store)
    }

    /// The number of the last durable record; 0 while there is none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// How many records there is room for.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Another handle on the same file, to read with while this one writes.
    pub(super) fn reader(&self) -> io::Result<Reader> {
        self.file.try_clone().map(Reader)
    }

    /// Writes records with the numbers that follow the last one, and returns once they are durable.
    ///
    /// # Errors
    ///
    /// The file's own; what is on it is then unknown, and nothing may be asked of this store any more: a sync that failed
    /// and is tried again may succeed without having written anything.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        assert!(
            records.len() <= BATCH_MAX && self.last + records.len() as u64 <= self.capacity,
            "the server checks both"
        );
        let mut blocks = Vec::with_capacity(records.len() * BLOCK);
        for (record, number) in records.iter().zip(self.last + 1..) {
            assert_eq!(record.number, number, "the server numbers without gaps");
            blocks.extend_from_slice(&record.encode());
        }
        self.file.write_all_at(&blocks, self.last * BLOCK as u64)?;
        self.file.sync_data()?;
        self.last += records.len() as u64;
        Ok(())
    }

    fn find_last(&mut self) -> io::Result<()> {
        const CHUNK: u64 = 2048;
        while self.last < self.capacity {
            for block in blocks(&self.file, self.last, CHUNK.min(self.capacity - self.last))? {
                match Record::decode(&block) {
                    Some(record) if record.number == self.last + 1 => self.last += 1,
                    _ => return Ok(()),
                }
            }
        }
        Ok(())
    }

    fn clear_behind(&mut self, path: &Path) -> Result<(), StoreError> {
        let failed = |what| move |cause| StoreError::File { what, path: path.to_owned(), cause };
        let count = (LOOK_BEHIND as u64).min(self.capacity - self.last);
        let mut dirty = 0;
        for (index, block) in blocks(&self.file, self.last, count).map_err(failed("read"))?.iter().enumerate() {
            let at = self.last + index as u64;
            // Where there is no record yet, whatever is not ours belongs to somebody else.
            if self.last == 0 && !has_magic(block) && block.iter().any(|byte| *byte != 0) {
                return Err(StoreError::Foreign { path: path.to_owned(), block: at });
            }
            let record = Record::decode(block);
            if index > BATCH_MAX && record.is_some_and(|record| record.number == at + 1) {
                return Err(StoreError::Hole { path: path.to_owned(), missing: self.last + 1, behind: at + 1 });
            }
            if index <= BATCH_MAX && block.iter().any(|byte| *byte != 0) {
                dirty = index + 1;
            }
        }
        if dirty > 0 {
            let zeroes = vec![0; dirty * BLOCK];
            let cleared =
                self.file.write_all_at(&zeroes, self.last * BLOCK as u64).and_then(|()| self.file.sync_data());
            cleared.map_err(failed("clear the torn end of"))?;
        }
        Ok(())
    }
}

/// Reads records while others are appended.
#[derive(Debug)]
pub(super) struct Reader(File);

impl Reader {
    /// Record `number`; `None` if it cannot be read as such.
    pub(super) fn read(&self, number: u64) -> io::Result<Option<Record>> {
        let mut block = [0; BLOCK];
        self.0.read_exact_at(&mut block, (number - 1) * BLOCK as u64)?;
        Ok(Record::decode(&block).filter(|record| record.number == number))
    }
}

fn blocks(file: &File, first: u64, count: u64) -> io::Result<Vec<[u8; BLOCK]>> {
    let mut bytes = vec![0; usize::try_from(count).map_err(io::Error::other)? * BLOCK];
    file.read_exact_at(&mut bytes, first * BLOCK as u64)?;
    Ok(bytes.chunks_exact(BLOCK).map(|block| block.try_into().expect("chunks have this size")).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn file(blocks: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(blocks * BLOCK as u64).expect("there is space");
        file
    }

    fn record(number: u64) -> Record {
        Record { number, client: 1, payload: format!("record {number}").into_bytes() }
    }

    fn records(numbers: std::ops::RangeInclusive<u64>) -> Vec<Record> {
        numbers.map(record).collect()
    }

    #[test]
    fn records_survive_a_restart_up_to_the_last_block() {
        let file = file(100);
        let mut store = Store::open(file.path()).expect("it is blank");
        assert_eq!((store.last(), store.capacity()), (0, 100));
        store.append(&records(1..=64)).expect("there is room");
        store.append(&records(65..=100)).expect("there is room");
        let store = Store::open(file.path()).expect("it is whole");
        assert_eq!(store.last(), 100);
        let reader = store.reader().expect("it is open");
        assert_eq!(reader.read(100).expect("it is readable"), Some(record(100)));
    }

    /// A batch of which a crash left any subset of blocks, each whole or with any part missing.
    #[test]
    fn a_torn_batch_never_comes_back() {
        for seed in 0..200 {
            let mut rng = tandem_base::Rng::new(seed);
            let file = file(200);
            let mut store = Store::open(file.path()).expect("it is blank");
            store.append(&records(1..=5)).expect("there is room");
            let batch = rng.between(1, BATCH_MAX as u64);
            let mut prefix = 0;
            for number in 6..6 + batch {
                let mut block = record(number).encode();
                match rng.below(3) {
                    0 => block = [0; BLOCK],
                    1 => block[rng.below(500) as usize..].fill(0),
                    _ => {}
                }
                prefix += u64::from(number == 6 + prefix && Record::decode(&block).is_some());
                file.as_file().write_all_at(&block, (number - 1) * BLOCK as u64).expect("there is space");
            }
            let mut store = Store::open(file.path()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(store.last(), 5 + prefix, "seed {seed}");
            store.append(&[record(6 + prefix)]).expect("there is room");
            let store = Store::open(file.path()).expect("it is whole");
            assert_eq!(store.last(), 6 + prefix, "seed {seed}: what was torn is no record");
        }
    }

    #[test]
    fn damage_and_foreign_data_are_refused_and_left_alone() {
        let holed = file(300);
        Store::open(holed.path()).expect("it is blank").append(&records(1..=64)).expect("there is room");
        let mut store = Store::open(holed.path()).expect("it is whole");
        store.append(&records(65..=128)).expect("there is room");
        holed.as_file().write_all_at(&[9; BLOCK], 10 * BLOCK as u64).expect("there is space");
        assert!(matches!(Store::open(holed.path()), Err(StoreError::Hole { missing: 11, .. })));

        let foreign = file(300);
        foreign.as_file().write_all_at(b"\x53\xef", 0x438).expect("there is space");
        let before = std::fs::read(foreign.path()).expect("it is there");
        assert!(matches!(Store::open(foreign.path()), Err(StoreError::Foreign { block: 2, .. })));
        assert!(std::fs::read(foreign.path()).expect("it is there") == before);

        let small = file(0);
        assert!(matches!(Store::open(small.path()), Err(StoreError::TooSmall { size: 0, .. })));
        assert!(matches!(Store::open(Path::new("/no/such/ledger")), Err(StoreError::File { .. })));
    }
}
