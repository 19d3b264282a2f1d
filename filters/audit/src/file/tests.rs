use std::os::unix::fs::symlink;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use super::*;

/// 2026-05-16T23:59:59Z
const LATE: Duration = Duration::from_secs(1_778_975_999);

fn at(days: u64) -> SystemTime {
    UNIX_EPOCH + LATE + Duration::from_secs(days * 86_400)
}

fn line(day: &str, text: &str) -> Vec<u8> {
    format!("{{\"ts\":\"{day}T12:00:00.000Z\",\"type\":\"{text}\"}}\n").into_bytes()
}

struct Bench {
    dir: TempDir,
    file: AuditFile,
}

impl Bench {
    fn new() -> Self {
        Self::with_limit(MAX_BYTES)
    }

    fn with_limit(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = AuditFile::new(dir.path().join("audit"), max_bytes);
        Self { dir, file }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn append(&mut self, lines: &[Vec<u8>]) {
        let mut all = lines.concat();
        self.file.append(&mut all).unwrap();
        assert!(all.is_empty());
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder().join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Puts a file there that another process left behind.
    fn left_behind(&self, content: &[u8]) {
        fs::create_dir_all(self.folder()).unwrap();
        fs::write(self.folder().join(NAME), content).unwrap();
    }
}

fn is_whole(text: &str) -> bool {
    text.ends_with('\n') && text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
}

#[test]
fn files_have_the_modes_of_the_specification_whatever_the_umask() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.folder().join(NAME)), 0o640);
    assert_eq!(mode(&bench.folder()) & 0o7, 0, "others see nothing");
    bench.append(&[line("2026-05-17", "b")]);
    assert_eq!(mode(&bench.folder().join("audit-2026-05-16-1.jsonl")), 0o640);
}

#[test]
fn lines_of_another_day_go_to_another_file() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a"), line("2026-05-16", "b"), line("2026-05-17", "c")]);
    assert_eq!(bench.names(), ["audit-2026-05-16-1.jsonl", NAME]);
    assert_eq!(bench.read("audit-2026-05-16-1.jsonl").lines().count(), 2);
    assert_eq!(bench.read(NAME).as_bytes(), line("2026-05-17", "c"));
    // a process whose last lines of the day come late
    bench.append(&[line("2026-05-16", "late")]);
    assert_eq!(bench.names().len(), 2, "a file is not closed for an earlier day");
}

#[test]
fn a_file_is_closed_at_midnight_without_a_line() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a")]);
    assert_eq!(bench.file.look(at(0)).unwrap(), Looked::Same);
    assert_eq!(bench.file.look(at(0) + Duration::from_secs(1)).unwrap(), Looked::Closed);
    assert_eq!(bench.names(), ["audit-2026-05-16-1.jsonl", NAME]);
    assert_eq!(bench.file.look(at(1)).unwrap(), Looked::Same, "an empty file is never closed");
    assert_eq!(bench.file.look(at(9)).unwrap(), Looked::Same);
}

#[test]
fn no_file_grows_beyond_the_limit_and_no_line_is_cut() {
    let one = line("2026-05-16", "0123456789");
    let mut bench = Bench::with_limit(3 * one.len() as u64);
    bench.append(&[one.clone(), one.clone()]);
    bench.append(std::slice::from_ref(&one));
    assert_eq!(bench.names(), [NAME], "exactly full is not beyond");
    bench.append(&vec![one.clone(); 4]);
    assert_eq!(bench.names(), ["audit-2026-05-16-1.jsonl", "audit-2026-05-16-2.jsonl", NAME]);
    for name in bench.names() {
        assert!(is_whole(&bench.read(&name)) && bench.read(&name).len() <= 3 * one.len());
    }
    let long = line("2026-05-16", &"x".repeat(500));
    bench.append(std::slice::from_ref(&long));
    assert_eq!(bench.read(NAME).as_bytes(), long, "a line that fits into no file has one to itself");
}

#[test]
fn numbers_go_on_behind_what_is_there() {
    let mut bench = Bench::new();
    bench.left_behind(b"");
    fs::write(bench.folder().join("audit-2026-05-16-7.jsonl"), "").unwrap();
    fs::write(bench.folder().join("audit-2026-05-16-x.jsonl"), "").unwrap();
    bench.append(&[line("2026-05-16", "a"), line("2026-05-17", "b")]);
    assert!(bench.names().contains(&"audit-2026-05-16-8.jsonl".to_owned()), "{:?}", bench.names());
}

#[test]
fn a_file_of_an_earlier_day_is_closed_at_the_start() {
    let mut bench = Bench::new();
    bench.left_behind(&line("2026-05-14", "a"));
    assert_eq!(bench.file.look(at(0)).unwrap(), Looked::Closed);
    assert_eq!(bench.names(), ["audit-2026-05-14-1.jsonl", NAME]);
}

#[test]
fn what_a_killed_process_left_half_written_is_mended_at_every_byte() {
    let (whole, half) = (line("2026-05-16", "whole"), line("2026-05-16", "half"));
    for cut in 0..=half.len() {
        let mut bench = Bench::new();
        bench.left_behind(&[&whole, &half[..cut]].concat());
        bench.append(&[line("2026-05-16", "next")]);
        let text = bench.read(NAME);
        assert!(is_whole(&text), "{cut}: {text}");
        let kept = if cut + 1 >= half.len() { 3 } else { 2 };
        assert_eq!(text.lines().count(), kept, "{cut}: only the end of the line was missing");
    }
}

#[test]
fn damage_of_any_length_is_cut_off() {
    let whole = line("2026-05-16", "whole");
    let block = usize::try_from(TAIL).unwrap();
    for length in [1, block - 1, block, block + 1, 3 * block] {
        for before in [&whole[..], b""] {
            let mut bench = Bench::new();
            bench.left_behind(&[before, &vec![0; length]].concat());
            bench.append(&[line("2026-05-16", "next")]);
            assert_eq!(bench.read(NAME).as_bytes(), [before, &line("2026-05-16", "next")].concat(), "{length}");
        }
    }
}

#[test]
fn a_file_that_was_moved_or_removed_is_made_anew() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a")]);
    fs::remove_file(bench.folder().join(NAME)).unwrap();
    bench.append(&[line("2026-05-16", "b")]);
    assert_eq!(bench.read(NAME).as_bytes(), line("2026-05-16", "b"));
    fs::rename(bench.folder().join(NAME), bench.folder().join("elsewhere")).unwrap();
    assert_eq!(bench.file.look(at(0)).unwrap(), Looked::Same);
    assert_eq!(bench.read(NAME), "", "it is there again before the next record");
    bench.append(&[line("2026-05-16", "c")]);
    assert_eq!(bench.read("elsewhere").as_bytes(), line("2026-05-16", "b"));
    fs::remove_dir_all(bench.folder()).unwrap();
    bench.append(&[line("2026-05-16", "d")]);
    assert_eq!(bench.read(NAME).as_bytes(), line("2026-05-16", "d"));
}

#[test]
fn a_full_disk_takes_nothing_and_the_lines_stay() {
    let mut bench = Bench::new();
    fs::create_dir(bench.folder()).unwrap();
    symlink("/dev/full", bench.folder().join(NAME)).unwrap();
    let mut lines = line("2026-05-16", "a");
    assert_eq!(bench.file.append(&mut lines).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(lines, line("2026-05-16", "a"));
    fs::remove_file(bench.folder().join(NAME)).unwrap();
    bench.file.append(&mut lines).unwrap();
    assert_eq!(bench.read(NAME).as_bytes(), line("2026-05-16", "a"));
}

#[test]
fn a_directory_that_is_none_is_an_error_until_it_is_one() {
    let mut bench = Bench::new();
    fs::write(bench.folder(), "no directory").unwrap();
    let mut lines = line("2026-05-16", "a");
    assert!(bench.file.append(&mut lines).is_err() && bench.file.look(at(0)).is_err());
    fs::remove_file(bench.folder()).unwrap();
    bench.file.append(&mut lines).unwrap();
}

#[test]
fn old_files_are_removed_and_nothing_else() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a")]);
    let names = [
        "audit-2026-05-05-1.jsonl",
        "audit-2026-05-06-1.jsonl",
        "audit-2026-05-16-12.jsonl",
        "audit-2020-01-01-1.jsonl.gz",
        "audit-2020-01-01.jsonl",
        "audit-2020-13-01-1.jsonl",
        "notes.txt",
    ];
    for name in names {
        fs::write(bench.folder().join(name), "").unwrap();
    }
    bench.file.remove_older(0, at(0));
    assert_eq!(bench.names().len(), names.len() + 1, "0 keeps everything");
    bench.file.remove_older(36_500, at(0));
    assert_eq!(bench.names().len(), names.len() + 1);
    bench.file.remove_older(10, at(0));
    let left = bench.names();
    assert!(!left.contains(&names[0].to_owned()), "{left:?}");
    assert_eq!(left.len(), names.len(), "{left:?}");
}

/// Processes that write to one directory, each of which closes files, lose and cut nothing.
#[test]
fn writers_beside_each_other_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, one) = (dir.path().join("audit"), line("2026-05-16", "0-000"));
    let limit = one.len() as u64 * 20;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let folder = folder.clone();
            scope.spawn(move || {
                let mut file = AuditFile::new(folder, limit);
                for number in 0..50 {
                    let mut lines =
                        [0, 1].map(|n| line("2026-05-16", &format!("{writer}-{:03}", number * 2 + n))).concat();
                    file.append(&mut lines).unwrap();
                }
                file.sync().unwrap();
            });
        }
    });
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.len() as u64 <= limit && (text.is_empty() || is_whole(&text)));
        all.extend(text.lines().map(str::to_owned));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400);
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_no_longer_than_its_time() {
    let mut bench = Bench::new();
    bench.append(&[line("2026-05-16", "a")]);
    let held = bench.file.lock().unwrap();
    let mut lines = line("2026-05-16", "b");
    assert_eq!(bench.file.append(&mut lines).unwrap_err().kind(), ErrorKind::TimedOut);
    drop(held);
    bench.file.append(&mut lines).unwrap();
}
