//! Forms: the same result wherever the body is cut, places inside the body, and the parts that a reader finds that has
//! the whole body and splits it at every boundary.
//!
//! The boundary is what the first line of an input says.

#![no_main]

use std::collections::HashSet;
use std::ops::Range;

use dgx_gateway_wire::multipart::{Boundary, Form, FormError, Scanner, Wanted};
use fuzzing::Numbers;
use libfuzzer_sys::fuzz_target;

const LIMITS: &[(&str, usize)] = &[("model", 24), ("stream", 5), ("user_id", 9000)];
const WANTED: Wanted = Wanted { file: "file", fields: LIMITS };

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers::of(input);
    let name = boundary(input);
    let content_type = format!("multipart/form-data; boundary=\"{name}\"");
    let boundary = Boundary::of(&content_type).expect("the boundary was tried");
    assert_eq!(Boundary::of(&boundary.content_type()).as_ref(), Some(&boundary), "said in its plain form");

    let whole = scan(&boundary, [input]);
    assert_eq!(scan(&boundary, numbers.pieces(input)), whole, "cut elsewhere");
    let (form, result) = whole;
    places(&form, input);
    if result.is_ok() {
        let parts = by_splitting(input, format!("\r\n--{name}").as_bytes());
        let found: HashSet<Range<usize>> = parts.into_iter().collect();
        for field in form.fields() {
            assert!(found.contains(&field.range), "{field:?} is no part");
        }
        assert!(form.file().is_none() || found.len() > form.fields().len(), "a file that is no part");
    }
});

/// What the first line names, if that is a boundary.
fn boundary(input: &[u8]) -> String {
    let line = input.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let name = line.and_then(|line| line.strip_prefix("--")).filter(|name| !name.contains(['"', '\\']));
    let name = name.filter(|name| Boundary::of(&format!("multipart/form-data; boundary=\"{name}\"")).is_some());
    name.unwrap_or("boundary").to_owned()
}

/// All that is known of a form, and the end.
fn scan<'a>(boundary: &Boundary, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Form, Result<(), FormError>) {
    let mut scanner = Scanner::new(boundary, WANTED);
    for piece in pieces {
        if let Err(error) = scanner.push(piece) {
            assert_eq!(scanner.push(b"x"), Err(error), "a failure lasts");
            assert_eq!(scanner.finish(), Err(error));
            break;
        }
    }
    (scanner.form().clone(), scanner.finish())
}

/// Each field stands where it says, once, after the one before, within its limit.
fn places(form: &Form, input: &[u8]) {
    let mut end = 0;
    for field in form.fields() {
        assert!(field.range.start >= end && field.range.end <= input.len(), "{field:?}");
        assert_eq!(input.get(field.range.clone()), Some(field.value.as_bytes()));
        let limit = LIMITS.iter().find(|(name, _)| *name == field.name).map(|(_, limit)| *limit);
        assert!(limit.is_some_and(|limit| field.value.len() <= limit), "{field:?}");
        assert!(form.has(field.name) && form.field(field.name) == Some(field));
        end = field.range.end;
    }
}

/// Where the contents of the parts stand: between a blank line and the next boundary, up to the last one.
fn by_splitting(input: &[u8], delimiter: &[u8]) -> Vec<Range<usize>> {
    let body = [b"\r\n", input].concat(); // the first boundary may stand at the very start
    let mut parts = Vec::new();
    let mut at = find(&body, delimiter, 0).expect("an accepted form has a boundary") + delimiter.len();
    while !body[at..].starts_with(b"--") {
        assert!(body[at..].starts_with(b"\r\n"), "something stands behind a boundary");
        let start = find(&body, b"\r\n\r\n", at + 2).expect("headers end") + 4;
        let end = find(&body, delimiter, start).expect("parts end");
        parts.push(start - 2..end - 2);
        at = end + delimiter.len();
    }
    parts
}

fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    text[from..].windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}
