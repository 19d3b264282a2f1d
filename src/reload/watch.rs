//! Notices that configuration files changed, by looking at them again and again.
//!
//! That meets every way in which files change: written in place, replaced by a rename, a link that is turned, a file
//! that appears or goes, on any file system. A handful of looks every half second costs nothing.

use std::time::Duration;

use dgx_gateway_filter::files::{FileRead, Stamp};

/// How often files are looked at.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Looks after which files that go on changing are read all the same.
const MOST_LOOKS: u32 = 10;

/// What the last looks found.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// How the files looked at the last look, if not as they were read, and for how many looks.
    unsettled: Option<(Vec<Option<Stamp>>, u32)>,
}

impl Watch {
    /// Looks at files. True when they look otherwise than when they were read, and have come to rest: whoever writes
    /// several files, or one in several steps, is done.
    pub(super) fn look(&mut self, known: &[FileRead]) -> bool {
        let now: Vec<Option<Stamp>> = known.iter().map(|file| Stamp::of(&file.path)).collect();
        if now.iter().eq(known.iter().map(|file| &file.stamp)) {
            self.unsettled = None;
            return false;
        }
        let looks = match self.unsettled.take() {
            Some((last, _)) if last == now => return true,
            Some((_, looks)) if looks >= MOST_LOOKS => return true,
            Some((_, looks)) => looks + 1,
            None => 1,
        };
        self.unsettled = Some((now, looks));
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dgx_gateway_filter::files::Journal;

    use super::*;

    #[test]
    fn tells_of_a_change_once_it_has_come_to_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (path, missing) = (dir.path().join("file"), dir.path().join("missing"));
        fs::write(&path, "1").unwrap();
        let journal = Journal::default();
        journal.read(&path).unwrap();
        journal.read(&missing).unwrap();
        let (known, mut watch) = (journal.files(), Watch::default());
        assert_eq!([watch.look(&known), watch.look(&known)], [false, false]);
        fs::write(&path, "12").unwrap();
        assert!(!watch.look(&known));
        fs::write(&missing, "new").unwrap();
        assert_eq!([watch.look(&known), watch.look(&known)], [false, true]);
        // it is told again until the files are read again
        assert_eq!([watch.look(&known), watch.look(&known)], [false, true]);
        journal.read(&path).unwrap();
        journal.read(&missing).unwrap();
        assert!(!watch.look(&journal.files()));
    }

    #[test]
    fn files_that_never_rest_are_read_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let journal = Journal::default();
        journal.read(&path).unwrap();
        let (known, mut watch) = (journal.files(), Watch::default());
        let told = (1..100).find(|size| {
            fs::write(&path, "x".repeat(*size)).unwrap();
            watch.look(&known)
        });
        assert_eq!(told, Some(11));
    }
}
