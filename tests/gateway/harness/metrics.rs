//! The numbers on the admin listener.

use std::net::SocketAddr;

use dgx_gateway_testkit::client::RawClient;
use http::Method;

use super::soon;

/// One scrape.
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) async fn scrape(admin: SocketAddr) -> Self {
        let mut client = RawClient::connect(admin).await.unwrap();
        client.send_head(&Method::GET, "/metrics", &[]).await.unwrap();
        let response = soon("the metrics", client.read_response()).await.unwrap();
        assert_eq!(response.status, 200);
        Self(response.text())
    }

    /// The page.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The sum over all series of a name, of which there must be one: a gauge that is gone is not 0.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let series =
            self.0.lines().filter_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])));
        let values: Vec<f64> = series.map(|rest| rest.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "there is no {name}");
        values.iter().sum()
    }

    /// The value of a series, written as the format writes it; 0 when there is none.
    pub(crate) fn value(&self, series: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}
