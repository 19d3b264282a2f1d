//! Where a body ends must be clear: what a proxy in front might have read otherwise is refused or written anew.
//!
//! The engine refuses most of it: lengths that differ or are no number, names with blanks, a coding that does not end
//! in `chunked`. It takes a length that is repeated, and any list of codings that ends in `chunked`, without undoing
//! what stands before it.

use dgx_gateway_filter::{ErrorCode, FilterError};
use http::{HeaderMap, HeaderValue, header};
use pingora::http::RequestHeader;

/// Refuses every `Transfer-Encoding` but one `chunked`, as RFC 9112 (6.1) asks of a server that knows no other, and
/// makes the declared length one number, so that everybody behind it reads the same.
///
/// # Errors
/// The client's fault.
pub(super) fn make_clear(head: &mut RequestHeader) -> Result<(), FilterError> {
    check_coding(&head.headers)?;
    if let Some(length) = repeated_length(&head.headers) {
        let written = head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length));
        written.map_err(FilterError::internal)?;
    }
    Ok(())
}

fn check_coding(headers: &HeaderMap) -> Result<(), FilterError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(FilterError::client(ErrorCode::InvalidField, "The only transfer coding that is taken is chunked.")
            .param("headers.transfer-encoding")),
    }
}

/// The number of a length that is written several times, or otherwise than a number is: `5, 5`, `005`.
fn repeated_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next()?;
    let plain = |text: &[u8]| text.iter().all(u8::is_ascii_digit) && (text == b"0" || !text.starts_with(b"0"));
    if lengths.next().is_none() && plain(first.as_bytes()) {
        return None;
    }
    first.to_str().ok()?.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, values: &[&str]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/", None).unwrap();
        for value in values {
            head.append_header(name.to_owned(), *value).unwrap();
        }
        head
    }

    #[test]
    fn chunked_alone_is_taken_and_no_list() {
        let checked = |values: &[&str]| {
            make_clear(&mut head("transfer-encoding", values)).map_err(|error| error.param.unwrap().to_string())
        };
        for good in [&[][..], &["chunked"], &["ChunkED"]] {
            assert_eq!(checked(good), Ok(()), "{good:?}");
        }
        for bad in [&["gzip, chunked"][..], &["chunked, chunked"], &["identity"], &["identity", "chunked"], &[""]] {
            assert_eq!(checked(bad), Err("headers.transfer-encoding".to_owned()), "{bad:?}");
        }
    }

    #[test]
    fn a_length_is_one_number_however_it_was_written() {
        for (written, number) in [
            (&["5"][..], &["5"][..]),
            (&["5", "5"], &["5"]),
            (&["5, 5"], &["5"]),
            (&["005"], &["5"]),
            (&["0"], &["0"]),
            (&[], &[]),
        ] {
            let mut head = head("content-length", written);
            make_clear(&mut head).unwrap();
            let now: Vec<_> = head.headers.get_all("content-length").iter().collect();
            assert_eq!(now, number, "{written:?}");
        }
    }
}
