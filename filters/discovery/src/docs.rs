//! Pages for people: `/docs/errors`, made from the error catalog, and the style that pages share.
//!
//! A page works without script and brings nothing from elsewhere; its security policy says so to the browser.

use std::fmt::{self, Display, Write as _};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use dgx_gateway_wire::errors::catalog::{CATALOG, Entry};

/// What a page may load: its own origin, styles in the page, images in the page, media made in the browser. No script
/// stands in a page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("docs/style.css");

/// The pages with their paths.
pub(crate) fn router() -> Router {
    let errors = Bytes::from(errors_page());
    Router::new().route("/docs/errors", get(move || async move { page("text/html; charset=utf-8", errors) })).route(
        "/docs/style.css",
        get(|| async { page("text/css; charset=utf-8", Bytes::from_static(STYLE.as_bytes())) }),
    )
}

/// A part of the documentation, as a browser should take it.
fn page(content_type: &'static str, body: Bytes) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, body).into_response()
}

/// The whole page: a list of all codes, then one section for each.
fn errors_page() -> String {
    let mut out = String::with_capacity(48 * 1024);
    let written = write_errors(&mut out);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    out
}

fn write_errors(out: &mut String) -> fmt::Result {
    out.push_str(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Errors · DGX gateway</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/docs/style.css\">\n</head>\n<body>\n\
         <header>\n<h1>Errors</h1>\n<p>Every error answer has a <code>code</code>. Codes never change their meaning. \
         The same list for programs: <a href=\"/errors\"><code>/errors</code></a>.</p>\n</header>\n",
    );
    out.push_str("<nav aria-label=\"All codes\">\n<ul>\n");
    for Entry { code, status, .. } in &CATALOG {
        writeln!(out, "<li><a href=\"#{code}\"><span class=\"status\">{status}</span> <code>{code}</code></a></li>")?;
    }
    out.push_str("</ul>\n</nav>\n<main>\n");
    for entry in &CATALOG {
        write_entry(out, entry)?;
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn write_entry(out: &mut String, entry: &Entry) -> fmt::Result {
    let Entry { code, status, kind, title, cause, remediation, typical_param } = entry;
    writeln!(out, "<section id=\"{code}\">\n<h2><a href=\"#{code}\"><code>{code}</code></a></h2>")?;
    writeln!(out, "<p class=\"title\">{}</p>\n<dl>", Text(title))?;
    writeln!(out, "<div><dt>Status</dt><dd>{status}</dd></div>")?;
    writeln!(out, "<div><dt>Type</dt><dd><code>{}</code></dd></div>", kind.as_str())?;
    writeln!(out, "<div><dt>Cause</dt><dd>{}</dd></div>", Text(cause))?;
    writeln!(out, "<div><dt>What to do</dt><dd>{}</dd></div>", Text(remediation))?;
    match typical_param {
        Some(param) => writeln!(out, "<div><dt>Typical param</dt><dd><code>{}</code></dd></div>", Escaped(param))?,
        None => writeln!(out, "<div><dt>Typical param</dt><dd>none</dd></div>")?,
    }
    out.push_str("</dl>\n</section>\n");
    Ok(())
}

/// A text of the catalog: what stands between backticks is code, and the first letter is a capital one.
struct Text(&'static str);

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('`').enumerate() {
            if index % 2 == 1 {
                write!(f, "<code>{}</code>", Escaped(part))?;
                continue;
            }
            let mut letters = part.chars();
            match letters.next().filter(|_| index == 0) {
                // a name such as `max_tokens` stays as it is
                Some(first) if !part.split(' ').next().unwrap_or_default().contains('_') => {
                    write!(
                        f,
                        "{}{}",
                        Escaped(first.to_ascii_uppercase().encode_utf8(&mut [0; 4])),
                        Escaped(letters.as_str())
                    )?;
                }
                _ => write!(f, "{}", Escaped(part))?,
            }
        }
        Ok(())
    }
}

/// A text within HTML.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_catalog_has_its_anchor_and_all_its_texts() {
        let page = errors_page();
        assert_eq!(page.matches("<section ").count(), CATALOG.len());
        for entry in &CATALOG {
            let anchor = format!("<section id=\"{}\">", entry.code);
            assert_eq!(page.matches(&anchor).count(), 1, "{anchor}");
            let section = page.split_once(&anchor).unwrap().1.split_once("</section>").unwrap().0;
            let param = entry.typical_param.map_or("none".to_owned(), |param| format!("<code>{param}</code>"));
            for text in [
                Text(entry.title).to_string(),
                Text(entry.cause).to_string(),
                Text(entry.remediation).to_string(),
                format!("<dd>{}</dd>", entry.status),
                format!("<code>{}</code>", entry.kind.as_str()),
                format!("<dd>{param}</dd>"),
            ] {
                assert!(section.contains(&text), "{}: {text}", entry.code);
            }
            assert!(page.contains(&format!("<li><a href=\"#{}\">", entry.code)));
        }
    }

    #[test]
    fn code_is_marked_and_markup_is_text() {
        for (raw, shown) in [
            ("send `Authorization: Bearer <token>`", "Send <code>Authorization: Bearer &lt;token&gt;</code>"),
            ("`GET /errors`", "<code>GET /errors</code>"),
            ("max_tokens too small", "max_tokens too small"),
            ("a & b \"c\" 'd'", "A &amp; b &quot;c&quot; &#39;d&#39;"),
            ("", ""),
        ] {
            assert_eq!(Text(raw).to_string(), shown);
        }
    }

    #[test]
    fn the_page_needs_no_script_and_nothing_from_elsewhere() {
        let page = errors_page();
        for absent in ["<script", "javascript:", "://", "=\"//", " style=", "<iframe", "<form"] {
            assert!(!page.contains(absent), "{absent}");
        }
        for absent in ["@import", "url(", "//"] {
            assert!(!STYLE.contains(absent), "{absent}");
        }
    }
}
