//! Ids of end users and scopes, as headers and files write them.

/// Whether the text is a user or scope id: `^[A-Za-z0-9._:@+~-]{1,128}$`.
pub(crate) fn is_id(text: &[u8]) -> bool {
    (1..=128).contains(&text.len()) && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._:@+~-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_pattern() {
        for good in ["a", "Alice.B_", "a:b@c+d~e-f.9", &"x".repeat(128)] {
            assert!(is_id(good.as_bytes()), "{good}");
        }
        for bad in ["", " ", "a b", "a/b", "é", "a\n", "a,b", &"x".repeat(129)] {
            assert!(!is_id(bad.as_bytes()), "{bad}");
        }
    }
}
