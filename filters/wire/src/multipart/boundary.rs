//! The boundary, from the content type.

use super::disposition::parameters;

/// Longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// What separates the parts of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary(String);

impl Boundary {
    /// The boundary of a `multipart/form-data` content type; `None` for another type, and without exactly one
    /// valid boundary.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Self> {
        let (essence, rest) = content_type.split_once(';')?;
        if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let mut found = None;
        for (name, value) in parameters(rest)? {
            if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
                return None;
            }
        }
        let boundary = found?;
        let fits = (1..=MAX_BOUNDARY).contains(&boundary.len())
            && boundary.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte))
            && !boundary.ends_with(' ');
        fits.then_some(Self(boundary))
    }

    /// The content type with this boundary and nothing else.
    #[must_use]
    pub fn content_type(&self) -> String {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"'+_-.".contains(&byte);
        if self.0.bytes().all(is_token) {
            format!("multipart/form-data; boundary={}", self.0)
        } else {
            format!("multipart/form-data; boundary=\"{}\"", self.0)
        }
    }

    /// A text field in front of the part whose boundary begins with two hyphens: what takes the place of these.
    #[must_use]
    pub fn field_before(&self, name: &str, value: &str) -> String {
        format!("--{}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--", self.0)
    }

    /// What stands before a part: a line break, two hyphens, the boundary.
    pub(super) fn delimiter(&self) -> Vec<u8> {
        [b"\r\n--", self.0.as_bytes()].concat()
    }
}
