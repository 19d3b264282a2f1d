//! Refused authentications: one line per address and second, and how many it stands for. Whoever guesses secrets must
//! not fill the disk.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use dgx_gateway_filter::audit::AuthReason;

/// Time for which one line of an address stands.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Most addresses that are known at the same time: about 1 MiB. Further ones share one entry.
const MOST: usize = 8192;

/// What a line without a request of its own says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: AuthReason,
    pub client_ip: Option<IpAddr>,
    pub pseudonymous: bool,
}

/// One line for refusals that got none when they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The last of them.
    pub refusal: Refusal,
    /// How many more there were.
    pub suppressed: u64,
}

struct Entry {
    /// When the last line of the address was written.
    written: Instant,
    /// Refusals since then, and the last of them.
    since: u64,
    last: Refusal,
}

/// The addresses of the last second.
#[derive(Default)]
pub(crate) struct Refusals {
    addresses: HashMap<IpAddr, Entry>,
    /// All others: clients without an address, and those for which there was no room.
    others: Option<Entry>,
}

impl Refusals {
    /// Whether a refusal gets a line now; the number of refusals before it that had none.
    pub(crate) fn admit(&mut self, refusal: Refusal, now: Instant) -> Option<u64> {
        let first = Entry { written: now, since: 0, last: refusal };
        let key = refusal.client_ip.map(network);
        let entry = match key {
            Some(key) if self.addresses.contains_key(&key) => self.addresses.get_mut(&key),
            Some(key) if self.addresses.len() < MOST => {
                self.addresses.insert(key, first);
                return Some(0);
            }
            _ => match &mut self.others {
                Some(others) => Some(others),
                None => {
                    self.others = Some(first);
                    return Some(0);
                }
            },
        }?;
        if now.saturating_duration_since(entry.written) < INTERVAL {
            entry.since += 1;
            entry.last = refusal;
            return None;
        }
        entry.written = now;
        Some(std::mem::take(&mut entry.since))
    }

    /// The lines that are due, and forgets addresses that have been quiet. `all`: the log ends.
    pub(crate) fn due(&mut self, now: Instant, all: bool) -> Vec<Summary> {
        let mut due = Vec::new();
        let mut keep = |entry: &mut Entry| {
            let over = now.saturating_duration_since(entry.written) >= INTERVAL;
            if !over && !all {
                return true;
            }
            let Some(suppressed) = entry.since.checked_sub(1) else { return false };
            due.push(Summary { refusal: entry.last, suppressed });
            entry.since = 0;
            entry.written = now;
            true
        };
        self.addresses.retain(|_, entry| keep(entry));
        if let Some(mut others) = self.others.take()
            && keep(&mut others)
        {
            others.last.client_ip = None;
            self.others = Some(others);
        }
        due
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.addresses.len()
    }
}

/// What counts as one client: an address, of IPv6 the network of one customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(address: &str) -> Refusal {
        Refusal { reason: AuthReason::Unknown, client_ip: address.parse().ok(), pseudonymous: false }
    }

    #[test]
    fn an_address_gets_one_line_per_second_that_counts_the_others() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(refusals.admit(refusal("192.0.2.1"), after(0)), Some(0));
        assert_eq!(refusals.admit(refusal("192.0.2.1"), after(10)), None);
        assert_eq!(refusals.admit(refusal("192.0.2.2"), after(20)), Some(0), "another address has its own");
        assert_eq!(refusals.admit(refusal("::ffff:192.0.2.1"), after(999)), None, "the same in another form");
        assert_eq!(refusals.admit(refusal("192.0.2.1"), after(1000)), Some(2));
        assert_eq!(refusals.admit(refusal("192.0.2.1"), after(1999)), None);
        assert_eq!(refusals.admit(refusal("192.0.2.1"), after(2000)), Some(1));
    }

    #[test]
    fn what_nobody_follows_gets_a_line_when_its_second_is_over() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let late = Refusal { reason: AuthReason::Missing, ..refusal("192.0.2.1") };
        refusals.admit(refusal("192.0.2.1"), start);
        refusals.admit(refusal("192.0.2.1"), start);
        refusals.admit(late, start);
        assert_eq!(refusals.due(start + Duration::from_millis(999), false), []);
        let second = start + INTERVAL;
        assert_eq!(refusals.due(second, false), [Summary { refusal: late, suppressed: 1 }]);
        assert_eq!(refusals.admit(late, second), None, "that line counts, too");
        assert_eq!(refusals.due(second, true).len(), 1, "the end waits for nothing");
        assert_eq!(refusals.due(second + INTERVAL, false), []);
        assert_eq!(refusals.known(), 0);
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.admit(refusal("2001:db8:0:1::1"), now), Some(0));
        assert_eq!(refusals.admit(refusal("2001:db8:0:1:ffff::2"), now), None);
        assert_eq!(refusals.admit(refusal("2001:db8:0:2::1"), now), Some(0));
    }

    #[test]
    fn beyond_the_most_addresses_all_share_one_entry() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let numbered = |n: usize| Refusal {
            client_ip: Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())),
            ..refusal("-")
        };
        for n in 0..MOST {
            assert_eq!(refusals.admit(numbered(n), now), Some(0));
        }
        assert_eq!(refusals.admit(numbered(MOST), now), Some(0), "the first of the others");
        assert_eq!(refusals.admit(numbered(MOST + 1), now), None);
        assert_eq!(refusals.admit(refusal("-"), now), None, "without an address");
        assert_eq!(refusals.admit(numbered(0), now), None, "a known one stays known");
        assert_eq!(refusals.known(), MOST);
        assert_eq!(refusals.due(now + INTERVAL, false).len(), 2);
    }

    proptest! {
        /// Every refusal is written or counted, and no address has two lines within a second.
        #[test]
        fn every_refusal_is_written_or_counted(steps in prop::collection::vec((0u8..3, 0u64..700, any::<bool>()), 0..120)) {
            let (mut refusals, start) = (Refusals::default(), Instant::now());
            let (mut millis, mut told, mut refused) = (0, 0, 0);
            let mut lines: HashMap<IpAddr, Vec<u64>> = HashMap::new();
            for (client, pause, sweep) in steps {
                millis += pause;
                let now = start + Duration::from_millis(millis);
                if sweep {
                    for summary in refusals.due(now, false) {
                        told += 1 + summary.suppressed;
                        lines.entry(summary.refusal.client_ip.unwrap()).or_default().push(millis);
                    }
                }
                let refusal = refusal(&format!("192.0.2.{client}"));
                refused += 1;
                if let Some(suppressed) = refusals.admit(refusal, now) {
                    told += 1 + suppressed;
                    lines.entry(refusal.client_ip.unwrap()).or_default().push(millis);
                }
            }
            told += refusals.due(start + Duration::from_millis(millis), true).iter().map(|summary| 1 + summary.suppressed).sum::<u64>();
            prop_assert_eq!(told, refused);
            for times in lines.values() {
                prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1000), "{:?}", times);
            }
        }
    }
}
