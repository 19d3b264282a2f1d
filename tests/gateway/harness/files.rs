//! The files of a gateway: its configuration, its data, and what it writes of itself.

use std::path::PathBuf;

use serde_json::Value;

use super::{Gateway, until};

impl Gateway {
    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A file of its working directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file in place as editors and tools do: written beside it, then renamed.
    pub(crate) fn put(&self, name: &str, content: &str) {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }

    /// A file of its data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// Writes one of its configuration files anew.
    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// What stands in the audit log at the moment; nothing without a directory.
    pub(crate) fn audit_text(&self) -> String {
        std::fs::read_to_string(self.data("audit/audit.jsonl")).unwrap_or_default()
    }

    /// Records of a kind in the audit log at the moment.
    pub(crate) fn audit(&self, kind: &str) -> Vec<Value> {
        let text = self.audit_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole); // it may be written just now
        let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["type"] == kind).collect()
    }

    /// The records of a kind, once there are so many.
    pub(crate) async fn audited(&self, kind: &str, count: usize) -> Vec<Value> {
        until("the audit log holds the records", async || self.audit(kind).len() >= count).await;
        let records = self.audit(kind);
        assert_eq!(records.len(), count, "{records:?}");
        records
    }

    /// Lengths of the files of its data directory that have no name any more.
    fn nameless_files(&self) -> Vec<u64> {
        let data = self.dir.path().join("data");
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.filter_map(|entry| {
            let entry = entry.unwrap().path();
            let path = std::fs::read_link(&entry).ok()?; // it may be closed meanwhile
            let nameless = path.starts_with(&data) && path.to_string_lossy().ends_with("(deleted)");
            nameless.then(|| std::fs::metadata(entry).map_or(0, |file| file.len()))
        })
        .collect()
    }

    /// Files in which it keeps uploads.
    pub(crate) fn open_data_files(&self) -> usize {
        self.nameless_files().len()
    }

    /// Bytes of uploads that it keeps in files.
    pub(crate) fn spooled_bytes(&self) -> u64 {
        self.nameless_files().iter().sum()
    }

    /// Puts a file in the place of its data directory: nothing can be written there any more.
    pub(crate) fn lose_data_dir(&self) {
        let data = self.dir.path().join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data).unwrap();
        }
        std::fs::write(&data, "").unwrap();
    }
}
