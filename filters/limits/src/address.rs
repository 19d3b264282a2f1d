//! Keys of client addresses.

use std::net::IpAddr;

use crate::bucket::Key;

/// Key of a client's bucket. An IPv6 client owns a whole /64, so all its addresses share one bucket; an IPv4 address
/// in IPv6 form is the IPv4 address. Clients without an address share one bucket.
pub(crate) fn key(client: Option<IpAddr>) -> Key {
    let mut key = [0; 32];
    let (family, network): (u8, [u8; 8]) = match client.map(|ip| ip.to_canonical()) {
        None => (0, [0; 8]),
        Some(IpAddr::V4(ip)) => (4, u64::from(ip.to_bits()).to_be_bytes()),
        Some(IpAddr::V6(ip)) => (6, first_half(ip.to_bits())),
    };
    for (slot, byte) in key.iter_mut().zip([family].into_iter().chain(network)) {
        *slot = byte;
    }
    key
}

fn first_half(bits: u128) -> [u8; 8] {
    u64::try_from(bits >> 64).unwrap_or(u64::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Key {
        key(Some(text.parse().unwrap()))
    }

    #[test]
    fn an_ipv6_client_is_its_64_bit_network() {
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn an_ipv4_client_is_its_address_in_either_form() {
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }

    #[test]
    fn families_and_clients_without_address_do_not_collide() {
        let keys = [key(None), of("0.0.0.0"), of("::"), of("::1.2.3.4")];
        assert_ne!(keys[0], keys[1]);
        assert_ne!(keys[1], keys[2]);
        assert_ne!(keys[0], keys[2]);
    }
}
