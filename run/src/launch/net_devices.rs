//! `linux.netDevices`: network devices of the host that move into the container's network namespace, with their
//! permanent global addresses, under another name where the Spec gives one, and up (`config-linux.md`, "Network Devices").
//!
//! The kernel is asked by rtnetlink (`rtnetlink(7)`), message by message. A device is not moved back: that is the
//! kernel's or the engine's affair.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::rootfs::has_namespace;

/// A device and its name in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    name: String,
    inside: String,
}

/// Longest name of a device, without its end: `IFNAMSIZ`.
const NAME_MAX: usize = 15;

impl NetDevice {
    /// Reads the Spec.
    pub(crate) fn all(spec: &Spec) -> Result<Vec<Self>> {
        let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
        let mut all = Vec::new();
        for (name, device) in devices.into_iter().flatten() {
            let inside = device.name().clone().filter(|name| !name.is_empty()).unwrap_or_else(|| name.clone());
            for name in [name, &inside] {
                let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
                if name.is_empty()
                    || name.len() > NAME_MAX
                    || !name.bytes().all(plain)
                    || matches!(&name[..], "." | "..")
                {
                    let sentence = format!("linux.netDevices: `{}` is no name of a device", name.escape_debug());
                    return Err(Error::new(Kind::Invalid, sentence));
                }
            }
            all.push(Self { name: name.clone(), inside });
        }
        if !all.is_empty() && !has_namespace(spec, LinuxNamespaceType::Network) {
            return Err(Error::new(Kind::Invalid, "linux.netDevices needs a network namespace in linux.namespaces"));
        }
        Ok(all)
    }
}

/// Moves the devices into the network namespace of a process.
pub(crate) fn move_all(devices: &[NetDevice], pid: i32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let open = |path: String| File::open(&path).at("open", &path);
    let (own, theirs) = (open("/proc/self/ns/net".to_owned())?, open(format!("/proc/{pid}/ns/net"))?);
    let here = Netlink::open()?;
    // A socket belongs to the namespace it was made in, whoever uses it.
    let enter = |namespace: &File| move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    enter(&theirs).context(|| "enter the container's network namespace")?;
    let there = Netlink::open();
    enter(&own).context(|| "go back to the host's network namespace")?;
    let there = there?;
    for device in devices {
        move_one(device, &here, &there, &theirs).context(|| format!("linux.netDevices: move `{}`", device.name))?;
    }
    Ok(())
}

fn move_one(device: &NetDevice, here: &Netlink, there: &Netlink, namespace: &File) -> Result<()> {
    use std::os::fd::AsRawFd;
    let index = netdevice::name_to_index(&here.0, &device.name).context(|| "find it")?;
    let addresses = here.addresses(index)?;
    let descriptor = namespace.as_raw_fd().to_ne_bytes();
    let name = [device.inside.as_bytes(), &[0]].concat();
    // Its number stays, so that it can be found under a name that the kernel made up from a template.
    let attributes: [(u16, &[u8]); 3] =
        [(attribute::NET_NS_FD, &descriptor), (attribute::NAME, &name), (attribute::NEW_INDEX, &index.to_ne_bytes())];
    here.ask(kind::NEW_LINK, 0, &link(index, 0), &attributes).context(|| "hand it over").map_err(
        |error| match error.errno().map(Errno::from_raw_os_error) {
            Some(Errno::EXIST) => error.hint(format!("the container has a device `{}` already", device.inside)),
            Some(Errno::INVAL) => error.hint("the kernel does not let this kind of device out of its namespace"),
            _ => error,
        },
    )?;
    for address in &addresses {
        let attributes: Vec<(u16, &[u8])> =
            address.attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        there.ask(kind::NEW_ADDRESS, CREATE, &address.header, &attributes).context(|| "give it its addresses")?;
    }
    there.ask(kind::NEW_LINK, 0, &link(index, UP), &[]).context(|| "bring it up")
}

/// `RTM_*` of `linux/rtnetlink.h`.
mod kind {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const GET_ADDRESS: u16 = 22;
}

/// `IFLA_*` of `linux/if_link.h`.
mod attribute {
    pub(super) const NAME: u16 = 3;
    pub(super) const NET_NS_FD: u16 = 28;
    pub(super) const NEW_INDEX: u16 = 49;
}

/// `IFF_UP`
const UP: u32 = 1;
/// `NLM_F_CREATE | NLM_F_EXCL`
const CREATE: u16 = 0x600;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;

/// `struct ifinfomsg`
fn link(index: u32, flags: u32) -> Vec<u8> {
    let words = [0, index, flags, flags];
    words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// An address to be set again.
struct Address {
    /// `struct ifaddrmsg`
    header: Vec<u8>,
    attributes: Vec<(u16, Vec<u8>)>,
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self> {
        // Protocol 0 is `NETLINK_ROUTE`.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        socket.context(|| "open a socket of the routing kind").map(Self)
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Result<(), Errno> {
        let mut message = vec![0; 16];
        message.extend_from_slice(body);
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).map_err(|_| Errno::TOOBIG)?;
            message.extend_from_slice(&length.to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(message.len()).map_err(|_| Errno::TOOBIG)?;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        send(&self.0, &message, SendFlags::empty()).map(drop)
    }

    /// Asks for one thing and waits until it is done.
    fn ask(&self, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Result<(), Errno> {
        self.send(kind, flags | ACKNOWLEDGE, body, attributes)?;
        self.answers(|_, _| {})
    }

    /// The permanent global addresses of a device.
    fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        /// `IFA_F_PERMANENT`, `RT_SCOPE_UNIVERSE`
        const PERMANENT: u8 = 0x80;
        const UNIVERSE: u8 = 0;
        /// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST`: the label names the device, which may have another name there.
        const KEPT: [u16; 3] = [1, 2, 4];
        let mut all = Vec::new();
        let mut take = |kind: u16, body: &[u8]| {
            let Some((header, rest)) = body.split_at_checked(8) else { return };
            let of_device = header[4..8] == index.to_ne_bytes();
            if kind != kind::NEW_ADDRESS || !of_device || header[2] & PERMANENT == 0 || header[3] != UNIVERSE {
                return;
            }
            let kept = attributes(rest).filter(|(kind, _)| KEPT.contains(kind));
            all.push(Address { header: header.to_vec(), attributes: kept.collect() });
        };
        self.send(kind::GET_ADDRESS, DUMP, &[0; 8], &[])
            .and_then(|()| self.answers(&mut take))
            .context(|| "read its addresses")?;
        Ok(all)
    }

    /// Hands over each message until the last.
    fn answers(&self, mut take: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        /// `NLMSG_ERROR`, also for a success, and `NLMSG_DONE`.
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (size, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..size];
            while let Some((header, _)) = rest.split_at_checked(16) {
                let length = usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]));
                let length = length.unwrap_or(usize::MAX);
                let Some(body) = rest.get(16..length) else { return Err(Errno::BADMSG) };
                match u16::from_ne_bytes([header[4], header[5]]) {
                    DONE => return Ok(()),
                    ERROR => {
                        let Some(&[a, b, c, d]) = body.get(..4) else { return Err(Errno::BADMSG) };
                        return match i32::from_ne_bytes([a, b, c, d]) {
                            0 => Ok(()),
                            number => Err(Errno::from_raw_os_error(-number)),
                        };
                    }
                    kind => take(kind, body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// The attributes of a message, each with its kind.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> + '_ {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?.to_vec();
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespaces: &str, devices: &str, expected: &str) {
        let text = format!(r#"{{"linux":{{"namespaces":[{namespaces}],"netDevices":{devices}}}}}"#);
        let spec: Spec = serde_json::from_str(&text).expect("valid");
        let told = NetDevice::all(&spec).map_or_else(
            |error| error.to_string(),
            |all| all.iter().map(|device| format!("{} {};", device.name, device.inside)).collect(),
        );
        assert_eq!(told, expected);
    }

    #[test]
    fn names_are_checked() {
        let network = r#"{"type":"network"}"#;
        check(network, r#"{"eth0":{"name":"inner"}}"#, "eth0 inner;");
        check(network, r#"{"eth0":{}}"#, "eth0 eth0;");
        check(network, r#"{"eth0":{"name":"eth%d"}}"#, "eth0 eth%d;");
        check(network, r#"{"eth0":{"name":"a/b"}}"#, "linux.netDevices: `a/b` is no name of a device");
        check(
            network,
            r#"{"a name that is too long":{}}"#,
            "linux.netDevices: `a name that is too long` is no name of a device",
        );
        check("", r#"{"eth0":{}}"#, "linux.netDevices needs a network namespace in linux.namespaces");
    }
}
