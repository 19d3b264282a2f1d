//! Public pages: for people, and without a token.

use http::Method;

use crate::harness::{Answer, Client, Gateway, Setup};
use dgx_gateway_testkit::client::RawClient;

/// An answer to a caller without a token.
async fn public(gateway: &Gateway, method: Method, path: &str) -> Answer {
    let mut raw = RawClient::connect(gateway.addr).await.unwrap();
    raw.request(&method, path, &[], b"").await.unwrap();
    raw.read_response().await.unwrap().into()
}

#[tokio::test]
async fn the_errors_page_has_an_anchor_for_every_code_of_the_catalog() {
    let gateway = Setup::new().start().await;
    let page = public(&gateway, Method::GET, "/docs/errors").await;
    assert_eq!(page.is_ok().header("content-type"), Some("text/html; charset=utf-8"));
    let catalog = public(&gateway, Method::GET, "/errors").await.is_ok().json();
    let entries = catalog["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 49);
    for entry in entries {
        let anchor = format!("<section id=\"{}\">", entry["code"].as_str().unwrap());
        assert_eq!(page.text().matches(&anchor).count(), 1, "{anchor}");
    }
}

#[tokio::test]
async fn pages_bring_a_security_policy_and_their_own_style() {
    let gateway = Setup::new().start().await;
    for (path, kind) in [
        ("/docs/errors", "text/html; charset=utf-8"),
        ("/docs/errors/", "text/html; charset=utf-8"),
        ("/docs/style.css", "text/css; charset=utf-8"),
    ] {
        let answer = public(&gateway, Method::GET, path).await;
        assert_eq!(answer.is_ok().header("content-type"), Some(kind));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
        for directive in
            ["default-src 'self'", "style-src 'self' 'unsafe-inline'", "img-src 'self' data:", "media-src 'self' blob:"]
        {
            assert!(directives.contains(&directive), "{policy}");
        }
        assert!(!policy.contains("script-src"), "scripts only from the gateway itself: {policy}");
    }
    let page = public(&gateway, Method::GET, "/docs/errors").await;
    assert!(page.text().contains("href=\"/docs/style.css\""));
    public(&gateway, Method::POST, "/docs/errors").await.is_error(405, "method_not_allowed", "");
}

#[tokio::test]
async fn other_pages_of_the_documentation_do_not_exist() {
    let gateway = Setup::new().start().await;
    for path in
        ["/docs", "/docs/", "/docs/error", "/docs/errors/x", "/docs/errors.html", "/docs/style.css/x", "/docs//errors"]
    {
        public(&gateway, Method::GET, path).await.is_error(404, "route_not_found", "");
    }
}

#[tokio::test]
async fn the_limiter_of_public_pages_counts_them() {
    let gateway = Setup::new().start().await;
    let mut client = Client::connect(gateway.addr).await;
    let mut refused = None;
    for _ in 0..200 {
        let answer = client.get("/docs/errors").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    refused.unwrap().is_error(429, "rate_limit_exceeded", "");
}
