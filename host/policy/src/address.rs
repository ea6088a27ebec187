//! Which addresses are not on the public Internet.
//!
//! The tables are the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates) with the
//! multicast ranges, the deprecated site-local range and one address of a cloud platform that no registry lists.
//! Entries that the registry calls globally reachable (AS112, AMT, the anycast addresses of 192.0.0.0/24) are in
//! them as well: no API lives there. What is in no table and outside 2000::/3 is not global unicast either.
//!
//! IPv4 inside IPv6: mapped, compatible, translated, local-use NAT64, 6to4 and Teredo addresses are refused
//! whatever they embed, because no public name has a need of them. The well-known NAT64 prefix 64:ff9b::/96 is
//! how a host without IPv4 reaches the public IPv4 Internet, so there the embedded address decides; the same for
//! an ISATAP interface identifier (RFC 5214).
//!
//! Not checked, because it cannot be known here: a NAT64 prefix that a network has chosen for itself (RFC 6052).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The special purpose of an address, by its registry entry; `None` for a globally routable one.
///
/// ```
/// use keyward_policy::address::special_purpose;
/// assert_eq!(special_purpose("140.82.112.5".parse().unwrap()), None);
/// assert_eq!(special_purpose("10.10.10.10".parse().unwrap()), Some("private use (10.0.0.0/8)"));
/// assert!(special_purpose("::ffff:10.10.10.10".parse().unwrap()).is_some());
/// ```
pub fn special_purpose(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

struct V4(u32, u32, &'static str);

struct V6(u128, u32, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u32, name: &'static str) -> V4 {
    V4(Ipv4Addr::new(a, b, c, d).to_bits(), length, name)
}

const fn v6(segments: [u16; 8], length: u32, name: &'static str) -> V6 {
    let [a, b, c, d, e, f, g, h] = segments;
    V6(Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(), length, name)
}

/// The first entry that holds the address names it, so a narrower one stands before the wider one.
const SPECIAL_V4: &[V4] = &[
    v4(0, 0, 0, 0, 32, "this host (0.0.0.0/32)"),
    v4(0, 0, 0, 0, 8, "this network (0.0.0.0/8)"),
    v4(10, 0, 0, 0, 8, "private use (10.0.0.0/8)"),
    v4(100, 64, 0, 0, 10, "shared address space (100.64.0.0/10)"),
    v4(127, 0, 0, 0, 8, "loopback (127.0.0.0/8)"),
    v4(168, 63, 129, 16, 32, "cloud platform service (168.63.129.16/32)"),
    v4(169, 254, 0, 0, 16, "link-local (169.254.0.0/16)"),
    v4(172, 16, 0, 0, 12, "private use (172.16.0.0/12)"),
    v4(192, 0, 0, 0, 24, "IETF protocol assignments (192.0.0.0/24)"),
    v4(192, 0, 2, 0, 24, "documentation (192.0.2.0/24)"),
    v4(192, 31, 196, 0, 24, "AS112 (192.31.196.0/24)"),
    v4(192, 52, 193, 0, 24, "AMT (192.52.193.0/24)"),
    v4(192, 88, 99, 0, 24, "6to4 relay anycast (192.88.99.0/24)"),
    v4(192, 168, 0, 0, 16, "private use (192.168.0.0/16)"),
    v4(192, 175, 48, 0, 24, "AS112 (192.175.48.0/24)"),
    v4(198, 18, 0, 0, 15, "benchmarking (198.18.0.0/15)"),
    v4(198, 51, 100, 0, 24, "documentation (198.51.100.0/24)"),
    v4(203, 0, 113, 0, 24, "documentation (203.0.113.0/24)"),
    v4(224, 0, 0, 0, 4, "multicast (224.0.0.0/4)"),
    v4(255, 255, 255, 255, 32, "limited broadcast (255.255.255.255/32)"),
    v4(240, 0, 0, 0, 4, "reserved (240.0.0.0/4)"),
];

const SPECIAL_V6: &[V6] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified (::/128)"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback (::1/128)"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible (::/96)"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped (::ffff:0:0/96)"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "IPv4-translated (::ffff:0:0:0/96)"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local-use IPv4/IPv6 translation (64:ff9b:1::/48)"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard-only (100::/64)"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix (100:0:0:1::/64)"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo (2001::/32)"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking (2001:2::/48)"),
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, "AMT (2001:3::/32)"),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, "AS112 (2001:4:112::/48)"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID (2001:10::/28)"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2 (2001:20::/28)"),
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, "drone remote identification (2001:30::/28)"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "IETF protocol assignments (2001::/23)"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation (2001:db8::/32)"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4 (2002::/16)"),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "AS112 (2620:4f:8000::/48)"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation (3fff::/20)"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing (5f00::/16)"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local (fc00::/7)"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local (fe80::/10)"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local (fec0::/10)"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast (ff00::/8)"),
];

const NAT64: V6 = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "IPv4/IPv6 translation (64:ff9b::/96)");
const GLOBAL_UNICAST: V6 = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, "global unicast (2000::/3)");

impl V4 {
    fn contains(&self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.0) >> (32 - self.1) == 0
    }
}

impl V6 {
    fn contains(&self, ip: Ipv6Addr) -> bool {
        (ip.to_bits() ^ self.0) >> (128 - self.1) == 0
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    SPECIAL_V4.iter().find(|entry| entry.contains(ip)).map(|entry| entry.2)
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let embedded = Ipv4Addr::from_bits(ip.to_bits() as u32);
    if NAT64.contains(ip) {
        return special_v4(embedded).map(|_| NAT64.2);
    }
    if let Some(entry) = SPECIAL_V6.iter().find(|entry| entry.contains(ip)) {
        return Some(entry.2);
    }
    if !GLOBAL_UNICAST.contains(ip) {
        return Some("outside global unicast (2000::/3)");
    }
    let interface = (ip.to_bits() >> 32) as u32;
    if matches!(interface, 0x0000_5efe | 0x0200_5efe) && special_v4(embedded).is_some() {
        return Some("ISATAP (RFC 5214)");
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn special(text: &str) -> Option<&'static str> {
        special_purpose(text.parse().unwrap())
    }

    #[test]
    fn every_entry_of_the_registries_is_special_from_its_first_to_its_last_address() {
        for entry in SPECIAL_V4 {
            let last = entry.0 | u32::MAX.checked_shr(entry.1).unwrap_or(0);
            for bits in [entry.0, last] {
                let ip = Ipv4Addr::from_bits(bits);
                assert!(special_v4(ip).is_some(), "{ip} of {}", entry.2);
            }
        }
        for entry in SPECIAL_V6 {
            let last = entry.0 | u128::MAX.checked_shr(entry.1).unwrap_or(0);
            for bits in [entry.0, last] {
                let ip = Ipv6Addr::from_bits(bits);
                assert!(special_v6(ip).is_some(), "{ip} of {}", entry.2);
            }
        }
    }

    #[test]
    fn entry_names_the_prefix_that_it_holds() {
        for entry in SPECIAL_V4 {
            let prefix = format!("({}/{})", Ipv4Addr::from_bits(entry.0), entry.1);
            assert!(entry.2.ends_with(&prefix), "{} against {prefix}", entry.2);
        }
        for entry in SPECIAL_V6 {
            let net = entry.2.rsplit_once('(').unwrap().1.trim_end_matches(')');
            let net: ipnet::Ipv6Net = net.parse().unwrap();
            assert_eq!((net.addr().to_bits(), u32::from(net.prefix_len())), (entry.0, entry.1), "{}", entry.2);
        }
    }

    #[test]
    fn special_addresses_are_refused_in_every_embedding() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.10.10.10",
            "100.64.1.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.0.9",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.1.1",
            "192.175.48.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:10.10.10.10",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:ffff::1",
            "64:ff9b:2::1",
            "64:ff9b:0:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:1::1",
            "2001:2::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:10::1",
            "2001:20::1",
            "2001:30::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2620:4f:8000::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "2a00:1450::5efe:10.0.0.1",
            "2a00:1450::200:5efe:127.0.0.1",
        ] {
            assert!(special(text).is_some(), "{text} was taken");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "140.82.112.5",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
            "64:ff9b::8.8.8.8",
            "2a00:1450::5efe:8.8.8.8",
        ] {
            assert_eq!(special(text), None, "{text}");
        }
    }
}
