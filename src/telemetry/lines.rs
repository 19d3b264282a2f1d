//! Where log lines go: standard error, in batches while many come.
//!
//! A line that comes alone is written at once. Lines that follow within [`BATCH`] are gathered and written together,
//! so a busy gateway does not pay one call of the system for each request. A process that is killed may lose the lines
//! of its last [`BATCH`]; one that ends writes them.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// How long lines gather.
const BATCH: Duration = Duration::from_millis(5);
/// Bytes that gather at most; whoever brings more waits for them to be written.
const MAX_GATHERED: usize = 1 << 20;

/// Lines on their way to one place.
pub(super) struct Lines {
    state: Mutex<State>,
    /// The place, held while something is written to it, so that lines keep their order.
    to: Mutex<Box<dyn Write + Send>>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    gathered: Vec<u8>,
    spare: Vec<u8>,
    written: Option<Instant>,
    /// The thread that writes has been told.
    armed: bool,
}

impl Lines {
    /// Lines to a place, and the thread that writes those that gather.
    pub(super) fn start(to: Box<dyn Write + Send>) -> Arc<Self> {
        let lines = Arc::new(Self { state: Mutex::default(), to: Mutex::new(to), wake: Condvar::new() });
        let own = Arc::clone(&lines);
        let started = std::thread::Builder::new().name("log".to_owned()).spawn(move || own.keep_writing());
        if started.is_err() {
            // nobody will write what gathers: every line looks like the first one after a long time
            lines.state().armed = true;
        }
        lines
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &[u8]) {
        let mut state = self.state();
        state.gathered.extend_from_slice(line);
        let alone = state.written.is_none_or(|at| at.elapsed() >= BATCH);
        if alone || state.gathered.len() > MAX_GATHERED {
            self.write_out(state);
        } else if !std::mem::replace(&mut state.armed, true) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Writes what has gathered, in its order.
    fn write_out(&self, mut state: MutexGuard<'_, State>) {
        let spare = std::mem::take(&mut state.spare);
        let gathered = std::mem::replace(&mut state.gathered, spare);
        state.written = Some(Instant::now());
        // taken before the state is given back: else a later batch could overtake this one
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        drop(state);
        drop(to.write_all(&gathered)); // there is no better place to say that standard error is gone
        drop(to);
        let mut kept = gathered;
        kept.clear();
        if kept.capacity() <= MAX_GATHERED {
            self.state().spare = kept;
        }
    }

    /// Writes what has gathered.
    pub(super) fn flush(&self) {
        self.write_out(self.state());
    }

    fn keep_writing(&self) {
        loop {
            let mut state = self.state();
            while !state.armed {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let until = state.written.unwrap_or_else(Instant::now) + BATCH;
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.armed = false;
            self.write_out(state);
        }
    }
}

/// One line.
pub(super) struct Line(Arc<Lines>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes writers of the lines.
pub(super) struct MakeLine(pub(super) Arc<Lines>);

impl<'a> MakeWriter<'a> for MakeLine {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        bytes: Vec<u8>,
        writes: usize,
    }

    #[derive(Clone, Default)]
    struct Place(Arc<(Mutex<Seen>, Condvar)>);

    impl Write for Place {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut seen = self.0.0.lock().unwrap();
            seen.bytes.extend_from_slice(bytes);
            seen.writes += 1;
            self.0.1.notify_all();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Place {
        /// Waits for so many bytes; what came, and in how many writes.
        fn seen(&self, bytes: usize) -> (String, usize) {
            let seen = self.0.0.lock().unwrap();
            let limit = Duration::from_secs(20);
            let (seen, waited) = self.0.1.wait_timeout_while(seen, limit, |seen| seen.bytes.len() < bytes).unwrap();
            assert!(!waited.timed_out(), "only {} bytes came", seen.bytes.len());
            (String::from_utf8(seen.bytes.clone()).unwrap(), seen.writes)
        }
    }

    #[test]
    fn every_line_arrives_once_and_in_order_and_many_share_a_write() {
        let place = Place::default();
        let lines = Lines::start(Box::new(place.clone()));
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        for line in text.split_inclusive('\n') {
            Line(Arc::clone(&lines)).write_all(line.as_bytes()).unwrap();
        }
        let (seen, writes) = place.seen(text.len());
        assert_eq!(seen, text);
        assert!(writes < 5000, "{writes} writes");
    }

    #[test]
    fn a_line_that_comes_alone_is_there_at_once() {
        let place = Place::default();
        let lines = Lines::start(Box::new(place.clone()));
        Line(Arc::clone(&lines)).write_all(b"alone\n").unwrap();
        assert_eq!(place.0.0.lock().unwrap().bytes, b"alone\n");
    }

    #[test]
    fn lines_of_many_threads_are_not_mixed() {
        let place = Place::default();
        let lines = Lines::start(Box::new(place.clone()));
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let lines = Arc::clone(&lines);
                std::thread::spawn(move || {
                    for n in 0..500 {
                        Line(Arc::clone(&lines)).write_all(format!("{thread}:{n:03}\n").as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let (seen, _) = place.seen(8 * 500 * 6);
        let mut next = [0; 8];
        for line in seen.lines() {
            let (thread, n) = line.split_once(':').unwrap();
            let thread: usize = thread.parse().unwrap();
            assert_eq!(n.parse(), Ok(next[thread]), "{line}");
            next[thread] += 1;
        }
    }
}
