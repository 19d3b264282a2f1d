//! Lengths of runs of like bytes: plain loops over small blocks, in the shape that compilers vectorise.

/// Bytes checked together; four vectors of the smallest common vector unit.
const LARGE: usize = 64;
/// One such vector, to come close to the end of the run.
const SMALL: usize = 16;

/// Length of the leading run of ASCII string content: no quote, no backslash, no control character.
pub(super) fn ascii_text(bytes: &[u8]) -> usize {
    leading(bytes, |byte| (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte >= 0x80))
}

/// Length of the leading run of string content, ASCII or not.
pub(super) fn text(bytes: &[u8]) -> usize {
    leading(bytes, |byte| (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
}

/// Length of the leading run of characters of the base64 alphabet (RFC 4648 section 4), without padding.
pub(super) fn base64(bytes: &[u8]) -> usize {
    leading(bytes, |byte| {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        !(letter | digit | (byte == b'+') | (byte == b'/'))
    })
}

#[inline(always)]
fn leading(bytes: &[u8], stops: impl Fn(u8) -> bool) -> usize {
    let large = whole_blocks::<LARGE>(bytes, &stops);
    let rest = bytes.get(large..).unwrap_or_default();
    let small = whole_blocks::<SMALL>(rest, &stops);
    let tail = rest.get(small..).unwrap_or_default();
    large + small + tail.iter().position(|&byte| stops(byte)).unwrap_or(tail.len())
}

/// Length of the leading blocks in which nothing stops the run.
#[inline(always)]
fn whole_blocks<const SIZE: usize>(bytes: &[u8], stops: &impl Fn(u8) -> bool) -> usize {
    let (blocks, _) = bytes.as_chunks::<SIZE>();
    SIZE * blocks.iter().take_while(|block| !block.iter().fold(false, |any, &byte| any | stops(byte))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_every_byte_outside_of_the_class_wherever_it_stands() {
        for at in [0, 1, 15, 63, 64, 65, 127, 128, 200] {
            for byte in 0..=u8::MAX {
                let mut bytes = vec![b'A'; 201];
                bytes[at] = byte;
                let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                let alphabet = byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
                assert_eq!(text(&bytes), if special { at } else { 201 });
                assert_eq!(ascii_text(&bytes), if special || !byte.is_ascii() { at } else { 201 });
                assert_eq!(base64(&bytes), if alphabet { 201 } else { at });
            }
        }
        assert_eq!(text(b""), 0);
    }
}
