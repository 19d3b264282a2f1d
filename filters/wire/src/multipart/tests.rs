use proptest::prelude::*;

use super::*;

const WANTED: Wanted = Wanted { file: "file", fields: &[("model", 64), ("stream", 8), ("user_id", 256)] };

fn boundary(text: &str) -> Boundary {
    Boundary::of(&format!("multipart/form-data; boundary=\"{text}\"")).unwrap()
}

/// A part: name, file name, content.
type Part = (String, Option<String>, Vec<u8>);

fn body(boundary: &str, parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, file, content) in parts {
        out.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes());
        if let Some(file) = file {
            out.extend_from_slice(format!("; filename=\"{file}\"\r\nContent-Type: audio/wav").as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(content);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

fn scan(boundary: &Boundary, body: &[u8], step: usize) -> Result<Form, FormError> {
    let mut scanner = Scanner::new(boundary, WANTED);
    for piece in body.chunks(step.max(1)) {
        scanner.push(piece)?;
    }
    scanner.finish()?;
    Ok(scanner.form().clone())
}

fn part(name: &str, file: Option<&str>, content: &[u8]) -> Part {
    (name.to_owned(), file.map(str::to_owned), content.to_vec())
}

#[test]
fn the_boundary_has_1_to_70_characters_of_a_small_set() {
    for (content_type, expected) in [
        ("multipart/form-data; boundary=abc", Some("abc")),
        ("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"a b:c\"", Some("a b:c")),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4", Some("----WebKitFormBoundary7MA4")),
        (&format!("multipart/form-data; boundary={}", "x".repeat(70)), Some(&*"x".repeat(70))),
        (&format!("multipart/form-data; boundary={}", "x".repeat(71)), None),
        ("multipart/form-data; boundary=\"\"", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=\"a \"", None),
        ("multipart/form-data; boundary=\"a@b\"", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=\"a", None),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
    ] {
        let found = Boundary::of(content_type);
        assert_eq!(found, expected.map(boundary), "{content_type}");
        if let Some(found) = found {
            assert_eq!(Boundary::of(&found.content_type()), Some(found));
        }
    }
}

#[test]
fn what_is_found_is_the_same_at_every_split() {
    let parts = [
        part("language", None, b"en"),
        part("file", Some("a.wav"), b"\r\n--other\r\n--b\r\r\n-\r\n--boundar\r\n"),
        part("model", None, "m\r\n--é".as_bytes()),
        part("stream", None, b""),
    ];
    let boundary = boundary("boundary");
    for (before, after) in [("", ""), ("a preamble\r\n", "an epilogue\r\n--boundary\r\nx"), ("\r\n", "")] {
        let sent = [before.as_bytes(), &body("boundary", &parts), after.as_bytes()].concat();
        let whole = scan(&boundary, &sent, sent.len()).unwrap();
        let model = whole.field("model").unwrap();
        assert_eq!((whole.value("model"), whole.value("stream")), (Some("m\r\n--é"), Some("")));
        assert_eq!(&sent[model.range.clone()], "m\r\n--é".as_bytes());
        assert_eq!(whole.file().unwrap().name.as_deref(), Some("a.wav"));
        assert!(!whole.has("user_id") && whole.field("language").is_none());
        for step in 1..sent.len() {
            assert_eq!(scan(&boundary, &sent, step).unwrap(), whole, "step {step}");
        }
        for cut in 0..=sent.len() {
            let mut scanner = Scanner::new(&boundary, WANTED);
            scanner.push(&sent[..cut]).unwrap();
            scanner.push(&sent[cut..]).unwrap();
            assert_eq!(scanner.form(), &whole, "cut at {cut}");
        }
    }
}

#[test]
fn every_cut_body_is_truncated_until_its_last_boundary() {
    let boundary = boundary("b");
    let body = body("b", &[part("model", None, b"m")]);
    for end in 0..body.len() - 2 {
        assert_eq!(scan(&boundary, &body[..end], 3), Err(FormError::Truncated), "{end}");
    }
    assert!(scan(&boundary, &body[..body.len() - 2], 3).is_ok(), "the last line break may be missing");
}

#[test]
fn what_upstreams_could_read_in_another_way_is_refused() {
    let fields = |parts: &[Part]| scan(&boundary("b"), &body("b", parts), 7);
    let model = part("model", None, b"m");
    assert_eq!(fields(&[model.clone(), model.clone()]), Err(FormError::Repeated("model")));
    let file = part("file", Some("a.wav"), b"x");
    assert_eq!(fields(&[file.clone(), file]), Err(FormError::Repeated("file")));
    assert_eq!(fields(&[part("model", Some("m"), b"m")]), Err(FormError::NotText("model")));
    assert_eq!(fields(&[part("model", None, b"\xff")]), Err(FormError::NotText("model")));
    assert!(fields(&[part("model", None, &[b'm'; 64])]).is_ok());
    assert_eq!(fields(&[part("model", None, &[b'm'; 65])]), Err(FormError::TooLong("model")));
    assert_eq!(fields(&[part("mod\\el", None, b"m")]), Err(FormError::Header));
    for half in ["\n", "\r", "\r\r", "\n\n", "\n\r"] {
        let hidden = format!("x{half}--b{half}Content-Disposition: form-data; name=\"model\"{half}{half}other");
        let parts = [part("file", Some("a.wav"), hidden.as_bytes()), part("model", None, b"m")];
        for step in [1, 2, 3, 1000] {
            assert_eq!(scan(&boundary("b"), &body("b", &parts), step), Err(FormError::Boundary), "{half:?} {step}");
        }
    }
    assert!(fields(&[part("file", Some("a.wav"), b"x--b\r--c\n--c")]).is_ok());
    for (raw, error) in [
        ("--b\n", FormError::Boundary),
        ("--b \r\n", FormError::Boundary),
        ("--bb\r\n", FormError::Boundary),
        ("--b-\r\n", FormError::Boundary),
        ("--b\r\n\r\n\r\n\r\n", FormError::Header),
        ("--b\r\nContent-Disposition: form-data; name=model\nX: y\r\n\r\n", FormError::Header),
        (
            "--b\r\nContent-Disposition: form-data; name=model\r\nContent-Transfer-Encoding: base64\r\n\r\n",
            FormError::Encoded,
        ),
    ] {
        assert_eq!(scan(&boundary("b"), raw.as_bytes(), raw.len()), Err(error), "{raw:?}");
        assert_eq!(scan(&boundary("b"), raw.as_bytes(), 1), Err(error), "{raw:?}");
    }
}

#[test]
fn headers_and_parts_have_limits() {
    let headed = |fill: usize| {
        let head = "Content-Disposition: form-data; name=x; filename=";
        format!("--b\r\n{head}{}\r\n\r\n\r\n--b--", "f".repeat(fill - head.len()))
    };
    for step in [1, 1000, 100_000] {
        assert!(scan(&boundary("b"), headed(8192).as_bytes(), step).is_ok(), "{step}");
        assert_eq!(scan(&boundary("b"), headed(8193).as_bytes(), step), Err(FormError::HeadersTooLong), "{step}");
    }
    let parts = |count| body("b", &vec![part("x", None, b""); count]);
    assert!(scan(&boundary("b"), &parts(1000), 4096).is_ok());
    assert_eq!(scan(&boundary("b"), &parts(1001), 4096), Err(FormError::TooManyParts));
}

#[test]
fn a_file_is_known_before_it_has_arrived_and_an_error_stays() {
    let boundary = boundary("b");
    let mut scanner = Scanner::new(&boundary, WANTED);
    scanner.push(b"--b\r\nContent-Disposition: form-data; name=file; filename=a.mp3\r\n\r\n").unwrap();
    assert_eq!(scanner.form().file(), Some(&File { name: Some("a.mp3".into()) }));
    scanner.push(b"...\r\n--b\r\nContent-Disposition: form-data; name=user_id\r\n\r\nal").unwrap();
    assert!(scanner.form().has("user_id") && scanner.form().field("user_id").is_none());
    assert_eq!(scanner.push(b"\r\n--b?"), Err(FormError::Boundary));
    assert_eq!(scanner.push(b"\r\n--b--"), Err(FormError::Boundary));
    assert_eq!(scanner.finish(), Err(FormError::Boundary));
}

proptest! {
    #[test]
    fn random_parts_round_trip(
        mark in "[A-Za-z0-9'()+_,./:=?-]{1,70}",
        contents in prop::collection::vec(prop::collection::vec(prop::sample::select(b"\r\n-abc".to_vec()), 0..40), 3),
        file_at in 0usize..3,
        step in 1usize..50,
    ) {
        for content in &contents {
            let framed = [b"\r\n", content.as_slice(), b"\r\n--"].concat();
            for half in ["\r\n", "\r", "\n"] {
                let delimiter = format!("{half}--{mark}");
                prop_assume!(memchr::memmem::find(&framed, delimiter.as_bytes()).is_none());
            }
        }
        let names = ["model", "stream", "x"];
        let mut parts: Vec<Part> = Vec::new();
        for (index, content) in contents.iter().enumerate() {
            if index == file_at { parts.push(part("file", Some("ä b.flac"), content)); }
            parts.push(part(names[index], None, &content[..content.len().min(8)]));
        }
        let body = body(&mark, &parts);
        let form = scan(&boundary(&mark), &body, step).unwrap();
        for (index, name) in names.iter().enumerate().take(2) {
            let expected = &contents[index][..contents[index].len().min(8)];
            let field = form.field(name).unwrap();
            prop_assert_eq!(field.value.as_bytes(), expected);
            prop_assert_eq!(&body[field.range.clone()], expected);
        }
        prop_assert_eq!(form.file().unwrap().name.as_deref(), Some("ä b.flac"));
    }

    #[test]
    fn any_bytes_give_one_result_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![
            Just(b"\r\n".to_vec()), Just(b"--b".to_vec()), Just(b"\r\n--b\r\n".to_vec()), Just(b"\r\n\r\n".to_vec()),
            Just(b"Content-Disposition: form-data; name=\"model\"".to_vec()), Just(b"; filename=".to_vec()),
            Just(b"\r\n--b--".to_vec()), Just(b"\n--b".to_vec()), Just(vec![b'x'; 30]), prop::collection::vec(any::<u8>(), 0..6),
        ], 0..24),
        steps in prop::collection::vec(1usize..9, 1..6),
    ) {
        let bytes = bytes.concat();
        let boundary = boundary("b");
        let whole = scan(&boundary, &bytes, bytes.len());
        let mut scanner = Scanner::new(&boundary, WANTED);
        let (mut rest, mut step, mut result) = (&bytes[..], steps.iter().cycle(), Ok(()));
        while !rest.is_empty() && result.is_ok() {
            let (piece, after) = rest.split_at(rest.len().min(*step.next().unwrap()));
            result = scanner.push(piece);
            rest = after;
        }
        let result = result.and_then(|()| scanner.finish()).map(|()| scanner.form().clone());
        prop_assert_eq!(result, whole);
    }
}
