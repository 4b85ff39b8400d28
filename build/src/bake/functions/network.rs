//! Networks: addresses and their parts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::value::Value;
use super::{Answer, text_of, whole_of, wrong};
use crate::dockerfile::Fault;

/// A network: its address as a number, its prefix, and how many bits an address has.
#[derive(Clone, Copy)]
struct Network {
    address: u128,
    prefix: u32,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::new(format!("`{text}` is not a network")).hint("such as 10.0.0.0/8");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u32 = prefix.parse().map_err(|_| bad())?;
        let (address, bits) = match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        if prefix > bits {
            return Err(bad());
        }
        let network = Self { address, prefix, bits };
        Ok(Self { address: address & network.mask(), ..network })
    }

    /// The bits of the prefix.
    fn mask(self) -> u128 {
        let all = if self.bits == 128 { u128::MAX } else { (1 << self.bits) - 1 };
        let free = self.bits - self.prefix;
        if free == 128 { 0 } else { all >> free << free }
    }

    fn text(self, address: u128) -> String {
        match self.bits {
            32 => Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX)).to_string(),
            _ => Ipv6Addr::from(address).to_string(),
        }
    }

    /// The network of a longer prefix with that number.
    fn part(self, more: u32, number: u128) -> Result<Self, Fault> {
        let prefix = self.prefix + more;
        if prefix > self.bits {
            return Err(Fault::new(format!("a prefix of {prefix} bits is longer than an address")));
        }
        if more < 128 && number >> more != 0 {
            return Err(Fault::new(format!("the number {number} does not fit into {more} bits")));
        }
        let shifted = number.checked_shl(self.bits - prefix).unwrap_or(0);
        Ok(Self { address: self.address | shifted, prefix, bits: self.bits })
    }

    fn value(self) -> Value {
        Value::String(format!("{}/{}", self.text(self.address), self.prefix))
    }
}

fn unsigned(arguments: &[Value], at: usize) -> Result<u32, Fault> {
    u32::try_from(whole_of(arguments, at)?).map_err(|_| wrong(arguments, at, "a number of bits"))
}

pub(super) fn host(arguments: &[Value]) -> Answer {
    let (network, number) = (Network::parse(&text_of(arguments, 0)?)?, whole_of(arguments, 1)?);
    let free = network.bits - network.prefix;
    let size = 1_u128.checked_shl(free).unwrap_or(u128::MAX);
    let offset = u128::from(number.unsigned_abs());
    if offset >= size && !(number < 0 && offset == size) {
        return Err(Fault::new(format!("the network has no host {number}")));
    }
    // Below zero is counted from the end.
    let offset = if number < 0 { size - offset } else { offset };
    Ok(Value::String(network.text(network.address + offset)))
}

pub(super) fn netmask(arguments: &[Value]) -> Answer {
    let network = Network::parse(&text_of(arguments, 0)?)?;
    match network.bits {
        32 => Ok(Value::String(network.text(network.mask()))),
        _ => Err(Fault::new("IPv6 has no netmasks")),
    }
}

pub(super) fn subnet(arguments: &[Value]) -> Answer {
    let network = Network::parse(&text_of(arguments, 0)?)?;
    let number = u128::from(whole_of(arguments, 2)?.unsigned_abs());
    network.part(unsigned(arguments, 1)?, number).map(Network::value)
}

pub(super) fn subnets(arguments: &[Value]) -> Answer {
    let network = Network::parse(&text_of(arguments, 0)?)?;
    let (mut list, mut next) = (Vec::new(), network.address);
    for at in 1..arguments.len() {
        let prefix = network.prefix + unsigned(arguments, at)?;
        if prefix > network.bits {
            return Err(Fault::new(format!("a prefix of {prefix} bits is longer than an address")));
        }
        let size = 1_u128.checked_shl(network.bits - prefix).unwrap_or(0);
        // Each begins where its size allows, behind the one before.
        let start = next.div_ceil(size.max(1)) * size.max(1);
        let part = Network { address: start, prefix, bits: network.bits };
        if start & network.mask() != network.address {
            return Err(Fault::new("the network is too small for all of them"));
        }
        list.push(part.value());
        next = start.saturating_add(size);
    }
    Ok(Value::List(list))
}
