//! Whose request it is, by address: the peer, or whom a trusted proxy names. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The peer, unless it is a trusted proxy: then the right-most entry of `X-Forwarded-For` that is none.
///
/// Every proxy appends the address it was called from, so entries are believed from the right, as long as the one
/// that wrote them is trusted. The walk stops at an entry that is no address. Without an untrusted entry the last
/// trusted one is the client. IPv4 addresses in IPv6 form are IPv4 addresses.
pub(super) fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        if !trusted.iter().any(|network| network.contains(&client)) {
            break;
        }
        let Some(named) = std::str::from_utf8(entry).ok().and_then(address) else { break };
        client = named.to_canonical();
    }
    client
}

/// An address; a port and the brackets of IPv6 are left out.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = || entry.parse().ok();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(FORWARDED_FOR, value);
            }
        }
        headers
    }

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "127.0.0.1/32", "2001:db8:1::/48"].map(|network| network.parse().unwrap()).to_vec()
    }

    #[test]
    fn finds_the_right_most_entry_that_no_trusted_proxy_has() {
        for (peer, lines, expected) in [
            // nobody is asked, or nobody who may be believed
            ("192.0.2.1", vec![], "192.0.2.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("192.0.2.1", vec!["198.51.100.7"], "192.0.2.1"),
            // one proxy, several, several lines
            ("10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", vec!["203.0.113.9", "198.51.100.7, 10.0.0.3", "10.0.0.2"], "198.51.100.7"),
            // what a client claims itself stands further left
            ("10.0.0.1", vec!["10.0.0.9, 203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            // nobody but proxies
            ("10.0.0.1", vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // entries that are no addresses
            ("10.0.0.1", vec!["unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["198.51.100.7, 10.0.0.300"], "10.0.0.1"),
            ("10.0.0.1", vec!["_hidden, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", vec!["\"198.51.100.7\""], "10.0.0.1"),
            ("10.0.0.1", vec!["[198.51.100.7]"], "10.0.0.1"),
            ("10.0.0.1", vec!["fe80::1%eth0"], "10.0.0.1"),
            // empty ones are none
            ("10.0.0.1", vec![""], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.7,, ,"], "198.51.100.7"),
            // ports, brackets, IPv6, IPv4 in its form
            ("10.0.0.1", vec!["198.51.100.7:4711"], "198.51.100.7"),
            ("2001:db8:1::5", vec!["2001:db8:2::7"], "2001:db8:2::7"),
            ("2001:db8:1::5", vec!["[2001:db8:2::7]"], "2001:db8:2::7"),
            ("2001:db8:1::5", vec!["[2001:db8:2::7]:443,\t[2001:db8:1::6]:80 "], "2001:db8:2::7"),
            ("::ffff:10.0.0.1", vec!["::ffff:198.51.100.7"], "198.51.100.7"),
            ("::ffff:192.0.2.1", vec!["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", vec!["198.51.100.7, [::ffff:10.0.0.2]:80"], "198.51.100.7"),
        ] {
            let lines: Vec<&[u8]> = lines.into_iter().map(str::as_bytes).collect();
            let found = client_ip(peer.parse().unwrap(), &headers(&lines), &trusted());
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn without_trusted_proxies_the_header_is_not_read() {
        let headers = headers(&[b"198.51.100.7"]);
        assert_eq!(client_ip("127.0.0.1".parse().unwrap(), &headers, &[]).to_string(), "127.0.0.1");
    }

    #[test]
    fn bytes_that_are_no_text_stop_the_walk() {
        let headers = headers(&[b"198.51.100.7, \xff\xfe, 10.0.0.2"]);
        assert_eq!(client_ip("10.0.0.1".parse().unwrap(), &headers, &trusted()).to_string(), "10.0.0.2");
    }

    proptest! {
        #[test]
        fn no_header_breaks_it_and_the_answer_is_one_of_the_addresses(
            peer in any::<IpAddr>(),
            lines in prop::collection::vec("([0-9a-f:.\\[\\], ]|::ffff:|10\\.0\\.0\\.[0-9]|[\\x20-\\x7e]){0,40}", 0..4),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut all: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            all.push(&bytes);
            let headers = headers(&all);
            let found = client_ip(peer, &headers, &trusted());
            prop_assert_eq!(found, found.to_canonical());
            prop_assert_eq!(client_ip(peer, &headers, &[]), peer.to_canonical());
            if !trusted().iter().any(|network| network.contains(&peer.to_canonical())) {
                prop_assert_eq!(found, peer.to_canonical());
            }
        }
    }
}
