//! Names for users that nobody can trace back without the key.

use std::fmt::Write;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dgx_gateway_filter::BuildError;
use dgx_gateway_filter::audit::Pseudonyms;
use dgx_gateway_filter::clock::Clock;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Random bytes of a key, and what HMAC-SHA256 makes the most of.
const KEY_BYTES: usize = 32;
/// Bytes of a digest that a name shows: 32 hex digits.
const SHOWN: usize = 16;
/// After a key could not be made, how long it is not tried again: requests must not wait for a disk that refuses.
const RETRY: Duration = Duration::from_secs(10);

/// The key file and what it says.
pub(crate) struct Keyring {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// The code with the key in it already, so that a name costs no more than its own bytes.
    mac: OnceLock<Hmac<Sha256>>,
    failed: Mutex<Option<Instant>>,
}

impl Keyring {
    /// Reads the key, if there is one; else it is made at the first need.
    ///
    /// # Errors
    /// The file cannot be read, or is none: another key would give every user another name.
    pub(crate) fn open(data_dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let path = data_dir.join("keys/audit-hmac.key");
        let keyring = Self { path, clock, mac: OnceLock::new(), failed: Mutex::default() };
        match load(&keyring.path) {
            Ok(Some(mac)) => drop(keyring.mac.set(mac)),
            Ok(None) => {}
            Err(source) => return Err(BuildError::Io { path: keyring.path, source }),
        }
        Ok(keyring)
    }

    fn mac(&self) -> Option<&Hmac<Sha256>> {
        if let Some(mac) = self.mac.get() {
            return Some(mac);
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|since| self.clock.now().saturating_duration_since(since) < RETRY) {
            return None;
        }
        match load_or_make(&self.path) {
            Ok(mac) => Some(self.mac.get_or_init(|| mac)),
            Err(error) => {
                *failed = Some(self.clock.now());
                tracing::error!(
                    file.path = %self.path.display(),
                    %error,
                    "the key of pseudonyms cannot be kept; users are left out of records"
                );
                None
            }
        }
    }
}

impl Pseudonyms for Keyring {
    fn pseudonym(&self, tenant_id: &str, user_id: &str) -> Option<String> {
        let mut mac = self.mac()?.clone();
        mac.update(tenant_id.as_bytes());
        mac.update(&[0]);
        mac.update(user_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut name = String::with_capacity(2 + 2 * SHOWN);
        name.push_str("u_");
        push_hex(&mut name, digest.iter().take(SHOWN));
        Some(name)
    }
}

pub(crate) fn push_hex<'a>(out: &mut String, bytes: impl IntoIterator<Item = &'a u8>) {
    for byte in bytes {
        write!(out, "{byte:02x}").unwrap_or_default(); // a string takes everything
    }
}

/// Takes the file that is there, else makes it. Processes that start together end up with one key.
fn load_or_make(path: &Path) -> io::Result<Hmac<Sha256>> {
    if let Some(mac) = load(path)? {
        return Ok(mac);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut text = String::with_capacity(2 * KEY_BYTES);
    push_hex(&mut text, &key);
    let mut file = tempfile::Builder::new().prefix(".audit-hmac").tempfile_in(folder)?; // mode 0600
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            fs::File::open(folder)?.sync_all()?; // names that were given must stay true
            keyed(&key)
        }
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            load(path)?.ok_or_else(|| io::Error::from(ErrorKind::NotFound))
        }
        Err(error) => Err(error.error),
    }
}

fn load(path: &Path) -> io::Result<Option<Hmac<Sha256>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = parse(text.trim_ascii_end());
    let damaged = "must hold 64 hex digits; restore it, or remove it and every user gets another name";
    key.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, damaged)).and_then(|key| keyed(&key)).map(Some)
}

fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(key)
}

fn keyed(key: &[u8]) -> io::Result<Hmac<Sha256>> {
    Hmac::new_from_slice(key).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use dgx_gateway_filter::clock::ManualClock;
    use std::time::SystemTime;

    use super::*;

    fn open(dir: &Path) -> Result<Keyring, BuildError> {
        Keyring::open(dir, Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH)))
    }

    fn with_key(key: &str) -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::write(dir.path().join("keys/audit-hmac.key"), key).unwrap();
        let keyring = open(dir.path()).unwrap();
        (dir, keyring)
    }

    /// `printf 'acme\0alice' | openssl dgst -sha256 -mac HMAC -macopt hexkey:<key>`, its first 32 digits.
    #[test]
    fn a_name_is_the_keyed_digest_of_tenant_and_user() {
        let (_dir, keyring) = with_key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
        assert_eq!(keyring.pseudonym("acme", "alice").as_deref(), Some("u_77367349671d633d297f54f7ff262f21"));
        let names = [("acme", "alice"), ("acme", "bob"), ("globex", "alice"), ("acmea", "lice"), ("acme", "")];
        let names: std::collections::BTreeSet<_> = names.map(|(tenant, user)| keyring.pseudonym(tenant, user)).into();
        assert_eq!(names.len(), 5, "the zero byte keeps tenant and user apart");
    }

    #[test]
    fn the_key_is_made_at_the_first_need_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let keyring = open(&data).unwrap();
        assert!(!data.join("keys/audit-hmac.key").exists());
        let name = keyring.pseudonym("acme", "alice").unwrap();
        let file = data.join("keys/audit-hmac.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(data.join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.len() == 65 && text.ends_with('\n') && parse(text.trim_end()).is_some());
        assert_eq!(open(&data).unwrap().pseudonym("acme", "alice"), Some(name));
        fs::remove_file(&file).unwrap();
        assert_ne!(open(&data).unwrap().pseudonym("acme", "alice"), None);
    }

    #[test]
    fn processes_that_begin_together_give_the_same_names() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = std::thread::scope(|scope| {
            let name = || open(dir.path()).unwrap().pseudonym("acme", "alice").unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(name)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(names.iter().all(|name| *name == names[0]));
    }

    #[test]
    fn a_damaged_key_stops_the_start_and_is_not_shown() {
        for content in ["", "hunter2", &"z".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("keys")).unwrap();
            fs::write(dir.path().join("keys/audit-hmac.key"), content).unwrap();
            let error = open(dir.path()).err().unwrap().to_string();
            assert!(error.contains("audit-hmac.key") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn without_a_key_there_is_no_name_and_it_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let clock = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH));
        let keyring = Keyring::open(&data, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        fs::write(&data, "no directory").unwrap();
        assert_eq!(keyring.pseudonym("acme", "alice"), None);
        fs::remove_file(&data).unwrap();
        clock.advance(RETRY - Duration::from_millis(1));
        assert_eq!(keyring.pseudonym("acme", "alice"), None);
        clock.advance(Duration::from_millis(1));
        assert!(keyring.pseudonym("acme", "alice").is_some());
    }
}
