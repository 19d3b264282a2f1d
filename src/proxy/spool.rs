//! What has been read of a body that streams, kept so that an attempt can be repeated.
//!
//! A small body stays in memory. Of a larger one only the tail does; what came before it is in a file of the data
//! directory that has no name, so that it is gone with the process. Bytes on both sides count against one budget of
//! the process, those in memory also against that of held bodies. Files are read and written by threads made for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dgx_gateway_filter::{ErrorCode, FilterError};
use tokio::sync::Semaphore;

use super::body::{Held, HeldBytes, overloaded};

/// Most bytes of one spool in memory, and so the size of a body that needs no file: 256 KiB is ten seconds of speech.
const MEMORY: usize = 256 * 1024;
/// Reads and writes of files at one time: enough for a disk, few threads.
const DISK_OPERATIONS: usize = 8;

/// Where spools are made.
#[derive(Debug)]
pub struct Spools {
    dir: PathBuf,
    budget: Arc<HeldBytes>,
    memory: Arc<HeldBytes>,
    disk: Arc<Semaphore>,
}

impl Spools {
    /// Files go to `dir`, which is made when it is needed. What spools keep in memory is taken from `memory`, too.
    #[must_use]
    pub fn new(dir: PathBuf, memory: Arc<HeldBytes>) -> Arc<Self> {
        let disk = Arc::new(Semaphore::new(DISK_OPERATIONS));
        Arc::new(Self { dir, budget: HeldBytes::new(), memory, disk })
    }

    /// An empty spool. With it, all together hold at most `most_bytes`, of which, with other bodies, `most_held` stand
    /// in memory.
    pub(super) fn open(self: &Arc<Self>, most_bytes: usize, most_held: usize) -> Spool {
        Spool {
            share: self.budget.share(most_bytes),
            memory: self.memory.share(most_held),
            home: Arc::clone(self),
            file: None,
            written: 0,
            leaving: Bytes::new(),
            tail: BytesMut::new(),
        }
    }

    /// Does something with a file on a thread of its own.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, FilterError> {
        let permit = Arc::clone(&self.disk).acquire_owned().await.map_err(storage)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = operation();
            drop(permit);
            result
        });
        done.await.map_err(storage)?.map_err(storage)
    }
}

/// The bytes of one body so far. What it takes up is given back on drop.
#[derive(Debug)]
pub(super) struct Spool {
    home: Arc<Spools>,
    share: Held,
    memory: Held,
    file: Option<Arc<File>>,
    /// Bytes in the file.
    written: usize,
    /// What follows them and is being written.
    leaving: Bytes,
    /// What follows that.
    tail: BytesMut,
}

impl Spool {
    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.written + self.leaving.len() + self.tail.len()
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// The budget is spent, or the disk failed. The piece is not in it then.
    ///
    /// # Cancel safety
    /// A call that is dropped has not appended the piece, and can be made again: bytes are written at their place, so
    /// that writing them twice does no harm.
    pub(super) async fn append(&mut self, piece: &Bytes) -> Result<(), FilterError> {
        let total = self.len() + piece.len();
        if !self.share.raise_to(total) || !self.memory.raise_to(total.min(MEMORY)) {
            return Err(overloaded());
        }
        if !self.leaving.is_empty() || self.tail.len() + piece.len() > MEMORY {
            self.write_out().await?;
        }
        self.tail.extend_from_slice(piece);
        Ok(())
    }

    /// Up to `most` bytes from `at`; none at the end.
    ///
    /// # Errors
    /// The disk failed.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(super) async fn read(&mut self, at: usize, most: usize) -> Result<Bytes, FilterError> {
        if !self.leaving.is_empty() {
            self.write_out().await?;
        }
        let Some(file) = self.file.clone().filter(|_| at < self.written) else {
            let rest = self.tail.get(at.saturating_sub(self.written)..).unwrap_or_default();
            return Ok(Bytes::copy_from_slice(rest.get(..most.min(rest.len())).unwrap_or_default()));
        };
        let mut piece = vec![0; most.min(self.written - at)];
        let read = move || file.read_exact_at(&mut piece, at as u64).map(|()| Bytes::from(piece));
        self.home.run(read).await
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.file = None;
        self.written = 0;
        self.leaving = Bytes::new();
        self.tail = BytesMut::new();
        self.share.give_back();
        self.memory.give_back();
    }

    /// Moves the tail to the file.
    async fn write_out(&mut self) -> Result<(), FilterError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let dir = self.home.dir.clone();
                let made = self.home.run(move || make_file(&dir)).await?;
                Arc::clone(self.file.insert(Arc::new(made)))
            }
        };
        if self.leaving.is_empty() {
            self.leaving = self.tail.split().freeze();
        }
        let (bytes, at) = (self.leaving.clone(), self.written as u64);
        self.home.run(move || file.write_all_at(&bytes, at)).await?;
        self.written += std::mem::take(&mut self.leaving).len();
        Ok(())
    }
}

/// The directory is there since the start; one that is gone is not made again.
fn make_file(dir: &std::path::Path) -> io::Result<File> {
    tempfile::tempfile_in(dir)
}

fn storage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FilterError {
    let mut refusal = FilterError::internal(error);
    refusal.code = ErrorCode::StorageError;
    refusal.message = "The gateway could not store the upload. Report the request id.".into();
    refusal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that no test comes near.
    const MANY: usize = 1 << 30;

    fn spools() -> (tempfile::TempDir, Arc<HeldBytes>, Arc<Spools>) {
        let dir = tempfile::tempdir().unwrap();
        let memory = HeldBytes::new();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let spools = Spools::new(dir.path().join("data"), Arc::clone(&memory));
        (dir, memory, spools)
    }

    async fn whole(spool: &mut Spool, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let piece = spool.read(out.len(), step).await.unwrap();
            if piece.is_empty() {
                return out;
            }
            out.extend_from_slice(&piece);
        }
    }

    #[tokio::test]
    async fn small_bodies_stay_in_memory_and_large_ones_in_a_file_without_a_name() {
        let (dir, memory, spools) = spools();
        let data = dir.path().join("data");
        let mut spool = spools.open(MANY, MANY);
        spool.append(&vec![7; MEMORY].into()).await.unwrap();
        assert!(spool.file.is_none());
        assert_eq!((spools.budget.used(), memory.used()), (MEMORY, MEMORY));
        spool.append(&Bytes::from_static(b"x")).await.unwrap();
        assert!(spool.file.is_some() && spool.tail.len() == 1);
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
        assert_eq!((spools.budget.used(), memory.used()), (MEMORY + 1, MEMORY));
        assert_eq!(whole(&mut spool, 100_000).await, [vec![7; MEMORY], b"x".to_vec()].concat());
        drop(spool);
        assert_eq!((spools.budget.used(), memory.used()), (0, 0));
    }

    #[tokio::test]
    async fn the_budget_is_met_exactly() {
        let (_dir, _memory, spools) = spools();
        let (mut a, mut b) = (spools.open(1000, MANY), spools.open(1000, MANY));
        a.append(&vec![1; 600].into()).await.unwrap();
        b.append(&vec![2; 400].into()).await.unwrap();
        let error = b.append(&Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ServiceOverloaded);
        assert_eq!(b.len(), 400, "what was refused is not in it");
        drop(a);
        b.append(&Bytes::from_static(b"x")).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_of_storage() {
        let (_dir, _memory, spools) = spools();
        let mut spool = spools.open(MANY, MANY);
        spool.file = Some(Arc::new(File::options().write(true).open("/dev/full").unwrap()));
        spool.append(&vec![1; MEMORY].into()).await.unwrap();
        for _ in 0..2 {
            let error = spool.append(&Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::StorageError);
            assert!(!error.message.contains("dev"), "{error}");
        }
        assert_eq!(spool.len(), MEMORY);
    }

    #[tokio::test]
    async fn an_append_that_was_dropped_can_be_made_again() {
        let (_dir, _memory, spools) = spools();
        let mut spool = spools.open(MANY, MANY);
        spool.append(&vec![1; MEMORY].into()).await.unwrap();
        for polls in 0..4 {
            let piece = Bytes::from(vec![u8::try_from(polls).unwrap(); MEMORY]);
            {
                let mut append = std::pin::pin!(spool.append(&piece));
                for _ in 0..polls {
                    if futures_util::poll!(&mut append).is_ready() {
                        break;
                    }
                }
            }
            if spool.len() == MEMORY * (polls + 1) {
                spool.append(&piece).await.unwrap();
            }
        }
        let expected: Vec<u8> = [1, 0, 1, 2, 3].iter().flat_map(|byte| vec![*byte; MEMORY]).collect();
        assert!(whole(&mut spool, MEMORY).await == expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn gives_back_what_it_took(sizes in prop::collection::vec(0..MEMORY * 2, 0..6), step in 1..MEMORY * 3) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (_dir, _memory, spools) = spools();
                let mut spool = spools.open(MANY, MANY);
                let mut expected = Vec::new();
                for (index, size) in sizes.into_iter().enumerate() {
                    let piece: Vec<u8> = (0..size).map(|at| u8::try_from((at * 31 + index) % 251).unwrap()).collect();
                    spool.append(&Bytes::copy_from_slice(&piece)).await.unwrap();
                    expected.extend_from_slice(&piece);
                }
                assert_eq!(spool.len(), expected.len());
                assert!(whole(&mut spool, step.max(5000)).await == expected);
            });
        }
    }
}
