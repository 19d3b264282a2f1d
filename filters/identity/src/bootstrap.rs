//! The token of a gateway that nobody has configured yet: made once, kept in the data directory.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use dgx_gateway_filter::BuildError;
use secrecy::SecretString;

use crate::random::{self, SECRET_BYTES};

/// The bootstrap secret.
pub(crate) struct Bootstrap {
    pub(crate) secret: SecretString,
    pub(crate) newly_made: bool,
}

/// Reads `keys/bootstrap-token`, or makes it. Two processes that start at once end up with the same secret.
pub(crate) fn load_or_make(data_dir: &Path) -> Result<Bootstrap, BuildError> {
    let keys = data_dir.join("keys");
    let path = keys.join("bootstrap-token");
    load(&path)
        .and_then(|found| found.map_or_else(|| make(&keys, &path), Ok))
        .map_err(|source| BuildError::Io { path, source })
}

fn load(path: &Path) -> io::Result<Option<Bootstrap>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let secret = text.trim_end();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if secret.len() != 2 * SECRET_BYTES || !secret.bytes().all(is_hex) {
        let message = "is not 64 lower-case hexadecimal digits; remove the file to have a new secret made";
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(Some(Bootstrap { secret: SecretString::from(secret), newly_made: false }))
}

/// Writes a new secret to a temporary file (mode 0600) and puts it in place whole, unless one is there by now.
fn make(keys: &Path, path: &Path) -> io::Result<Bootstrap> {
    DirBuilder::new().recursive(true).mode(0o700).create(keys)?;
    let secret = random::secret()?;
    let mut file = tempfile::Builder::new().prefix(".bootstrap-token").tempfile_in(keys)?;
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(Bootstrap { secret: SecretString::from(secret), newly_made: true }),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            load(path)?.ok_or_else(|| io::Error::from(ErrorKind::NotFound))
        }
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_a_secret_once_that_only_its_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let made = load_or_make(&data).unwrap();
        assert!(made.newly_made);
        assert_eq!(made.secret.expose_secret().len(), 64);
        assert_eq!((mode(&data), mode(&data.join("keys"))), (0o700, 0o700));
        assert_eq!(mode(&data.join("keys/bootstrap-token")), 0o600);
        assert_eq!(fs::read_dir(data.join("keys")).unwrap().count(), 1, "no temporary file is left");
        let again = load_or_make(&data).unwrap();
        assert!(!again.newly_made);
        assert_eq!(again.secret.expose_secret(), made.secret.expose_secret());
    }

    #[test]
    fn processes_that_start_together_share_one_secret() {
        let dir = tempfile::tempdir().unwrap();
        let start = || load_or_make(dir.path()).unwrap();
        let started: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(started.iter().filter(|one| one.newly_made).count(), 1);
        assert!(started.iter().all(|one| one.secret.expose_secret() == started[0].secret.expose_secret()));
    }

    #[test]
    fn refuses_a_damaged_file_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        for content in ["", "hunter2", &"A".repeat(64)] {
            fs::write(dir.path().join("keys/bootstrap-token"), content).unwrap();
            let error = load_or_make(dir.path()).err().unwrap().to_string();
            assert!(error.contains("remove the file") && !error.contains("hunter2"), "{error}");
        }
    }
}
