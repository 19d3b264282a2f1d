//! New secrets.

use std::io;

/// Length of a secret in bytes, before it is written in hexadecimal digits.
pub(crate) const SECRET_BYTES: usize = 32;

/// 64 lower-case hexadecimal digits from the random source of the system.
pub(crate) fn secret() -> io::Result<String> {
    let mut random = [0; SECRET_BYTES];
    getrandom::fill(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
