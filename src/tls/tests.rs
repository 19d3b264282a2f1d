use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};

use super::*;

/// A certificate and the key in the form of PKCS#8.
fn made(algorithm: &'static SignatureAlgorithm) -> (String, KeyPair) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key)
}

fn is_taken(chain_text: &str, key_text: &str) -> Result<(), String> {
    let (chain, _) = chain(chain_text).map_err(|error| error.to_string())?;
    let private = private_key(key_text).map_err(|error| error.to_string())?;
    acceptor(chain, private).map(|_| ()).map_err(|error| error.to_string())
}

/// A section of a PEM file.
fn pem(name: &str, der: &[u8]) -> String {
    format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", base64(der))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[test]
fn keys_of_every_kind_are_taken() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let (certificate, key) = made(algorithm);
        assert_eq!(is_taken(&certificate, &key.serialize_pem()), Ok(()), "{algorithm:?}");
    }
}

#[test]
fn keys_in_every_form_are_taken() {
    // PKCS#1, and both in one file
    let rsa = include_str!("fixtures/rsa.pem");
    assert!(rsa.contains("BEGIN RSA PRIVATE KEY"));
    assert_eq!(is_taken(rsa, rsa), Ok(()));
    // PKCS#8 holds the form of SEC1 as its last member
    let (certificate, key) = made(&rcgen::PKCS_ECDSA_P256_SHA256);
    let der = key.serialize_der();
    let start = der.windows(4).position(|four| four == [2, 1, 1, 4]).unwrap() - 2;
    let sec1 = pem("EC PRIVATE KEY", &der[start..]);
    assert_eq!(is_taken(&certificate, &sec1), Ok(()));
    // what tools put before it is left aside
    let parameters = pem("EC PARAMETERS", &[6, 8, 42, 134, 72, 206, 61, 3, 1, 7]);
    assert_eq!(is_taken(&certificate, &(parameters + &sec1)), Ok(()));
}

#[test]
fn the_first_certificate_is_the_one_that_is_served() {
    let ((first, key), (second, _)) = (made(&PKCS_ED25519), made(&PKCS_ED25519));
    assert_eq!(is_taken(&(first.clone() + &second), &key.serialize_pem()), Ok(()));
    let refused = is_taken(&(second + &first), &key.serialize_pem()).unwrap_err();
    assert_eq!(refused, "the private key does not belong to the first certificate of cert_file");
}

#[test]
fn nothing_of_a_key_is_shown() {
    let (certificate, key) = made(&PKCS_ED25519);
    let dir = tempfile::tempdir().unwrap();
    let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&cert_file, certificate).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut problems = Vec::new();
    let tls = ServerTls::check(TlsFile { cert_file, key_file }, "server.tls", &Ambient::default(), &mut problems);
    assert_eq!(problems, []);
    let shown = format!("{tls:?}");
    assert!(shown.starts_with("Some(ServerTls {") && !shown.contains("key"), "{shown}");
}
