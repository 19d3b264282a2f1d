//! Files with certificates (PEM), and the authorities that an upstream over TLS is checked against.

use std::any::Any;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::ambient::Ambient;
use crate::filter::Problem;

/// Most certificates of a file: more than any system trusts.
const MOST: usize = 1000;

/// Reads a text file that a key names, so that a change of it brings a reload. Problems are at the key, and say which
/// file is meant.
pub fn read(path: &Path, key: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<String> {
    let mut problem = |message: String| {
        problems.push(Problem::at(key, message));
        None
    };
    // somebody may have put the content here, and nothing of that is to be shown
    let shown = path.display().to_string();
    if shown.is_empty() || shown.contains(['\n', '\r']) || shown.contains("-----BEGIN") {
        return problem("must be the path of a file".to_owned());
    }
    match ambient.config_file(path) {
        Ok(Some(text)) => Some(text),
        Ok(None) => problem(format!("{shown} cannot be read: there is no such file")),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            problem(format!("{shown} is no text; PEM is needed (-----BEGIN …)"))
        }
        Err(error) => problem(format!("{shown} cannot be read: {}", error.kind())),
    }
}

/// The certificates of a PEM text, in their order. What else stands in it is left aside.
///
/// # Errors
/// There is none, or one cannot be read.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, BadCertificates> {
    let mut found = Vec::new();
    for (place, certificate) in (1..).zip(CertificateDer::pem_slice_iter(text.as_bytes())) {
        let certificate = certificate.map_err(|_| BadCertificates::Broken(place))?;
        X509Certificate::from_der(&certificate).map_err(|_| BadCertificates::Broken(place))?;
        found.push(certificate);
        if found.len() > MOST {
            return Err(BadCertificates::TooMany);
        }
    }
    if found.is_empty() { Err(BadCertificates::None) } else { Ok(found) }
}

/// Why a text gives no certificates. Its content is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificates {
    /// One cannot be read.
    #[error("certificate {0} in it cannot be read")]
    Broken(usize),
    /// There is none.
    #[error("there is no certificate in it (-----BEGIN CERTIFICATE-----)")]
    None,
    /// There are too many.
    #[error("there are more than {MOST} certificates in it")]
    TooMany,
}

/// Certificate authorities of a file: whoever presents a certificate of one of them is believed.
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    digest: u64,
    made: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl Authorities {
    /// Reads the file that a key names. A change of it brings a reload.
    pub fn load(path: &Path, key: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<Arc<Self>> {
        let text = read(path, key, ambient, problems)?;
        match certificates(&text) {
            Ok(certificates) => Some(Arc::new(Self::new(certificates))),
            Err(error) => {
                problems.push(Problem::at(key, format!("{}: {error}", path.display())));
                None
            }
        }
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut hasher = DefaultHasher::new();
        certificates.hash(&mut hasher);
        Self { digest: hasher.finish(), certificates, made: Mutex::default() }
    }

    /// The certificates; at least one.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Tells authorities apart. Equal ones have the same, whatever file they come from.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The form in which whoever connects wants them. Each type is made once.
    pub fn made<T: Send + Sync + 'static>(&self, make: impl FnOnce(&[CertificateDer<'static>]) -> T) -> Arc<T> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.iter().find_map(|known| Arc::clone(known).downcast().ok()) {
            return known;
        }
        let new = Arc::new(make(&self.certificates));
        made.push(Arc::clone(&new) as Arc<dyn Any + Send + Sync>);
        new
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.certificates.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn certificates_are_found_among_other_things() {
        let (one, two) = (pem(), pem());
        let text = format!("some words\n{one}-----BEGIN X-----\nAAAA\n-----END X-----\n{two}");
        assert_eq!(certificates(&text).unwrap().len(), 2);
        assert_eq!(certificates(""), Err(BadCertificates::None));
        assert_eq!(certificates("a: 1"), Err(BadCertificates::None));
        let broken = one.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(&broken), Err(BadCertificates::Broken(2)));
        assert_eq!(certificates(one.split_at(one.len() - 30).0), Err(BadCertificates::Broken(1)));
    }

    #[test]
    fn problems_name_key_and_file_and_nothing_of_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let load = |path: &Path| {
            let mut problems = Vec::new();
            let found = Authorities::load(path, "a.ca_file", &Ambient::default(), &mut problems);
            assert_eq!(found.is_none(), !problems.is_empty());
            problems.first().map(ToString::to_string).unwrap_or_default()
        };
        let path = dir.path().join("ca.pem");
        let at = path.display();
        assert_eq!(load(&path), format!("a.ca_file: {at} cannot be read: there is no such file"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(load(&path), format!("a.ca_file: {at} is no text; PEM is needed (-----BEGIN …)"));
        std::fs::write(&path, "secret words").unwrap();
        let none = "there is no certificate in it (-----BEGIN CERTIFICATE-----)";
        assert_eq!(load(&path), format!("a.ca_file: {at}: {none}"));
        assert_eq!(load(Path::new(&pem())), "a.ca_file: must be the path of a file");
        std::fs::write(&path, pem()).unwrap();
        assert_eq!(load(&path), "");
    }

    #[test]
    fn each_form_is_made_once() {
        let authorities = Authorities::new(certificates(&pem()).unwrap());
        assert_eq!(*authorities.made(<[_]>::len), 1);
        assert_eq!(*authorities.made(|_| 'a'), 'a');
        assert_eq!((*authorities.made(|_| 7_usize), *authorities.made(|_| 'b')), (1, 'a'));
        assert_ne!(authorities.digest(), Authorities::new(certificates(&pem()).unwrap()).digest());
    }
}
