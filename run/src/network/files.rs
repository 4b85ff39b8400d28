//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: made as files of its own and bound into it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};

use super::{Connection, DNS_ADDRESS, HOST_ADDRESS, Plan};
use crate::options::NetworkOptions;
use crate::spec::NetworkNamespace;

/// The host's own file of names.
pub const HOSTS: &str = "/etc/hosts";
/// The host's own file of name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// No such file of the host is longer, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/hostname`
    pub hostname: String,
    /// `/etc/resolv.conf`
    pub resolv_conf: String,
}

impl Files {
    /// Pure: the host's two files come in as text.
    ///
    /// # Errors
    /// `host-gateway` is asked for where there is no way to the host.
    pub fn new(options: &NetworkOptions, plan: &Plan, hostname: &str, name: &str, own: (&str, &str)) -> Result<Self> {
        let (hosts, resolv_conf) = own;
        Ok(Self {
            hosts: hosts_file(options, plan, hostname, name, hosts)?,
            hostname: format!("{hostname}\n"),
            resolv_conf: resolve_conf(options, plan, resolv_conf),
        })
    }

    /// Reads the host's files, which may be absent, and makes the container's.
    ///
    /// # Errors
    /// Those of [`Files::new`].
    pub fn from_host(options: &NetworkOptions, plan: &Plan, hostname: &str, name: &str) -> Result<Self> {
        let read = |path: &str| {
            let mut text = Vec::new();
            let _ = fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        };
        Self::new(options, plan, hostname, name, (&read(HOSTS), &read(RESOLV_CONF)))
    }

    /// Writes them below `folder`, and gives each with its place in the container.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        // The last tells programs that they are in a container (podman's sign; systemd and many scripts look for it).
        let all = [
            ("hosts", self.hosts.as_str(), "/etc/hosts"),
            ("hostname", &self.hostname, "/etc/hostname"),
            ("resolv.conf", &self.resolv_conf, "/etc/resolv.conf"),
            ("containerenv", "", "/run/.containerenv"),
        ];
        all.into_iter()
            .map(|(name, content, place)| {
                let path = folder.join(name);
                fs::write(&path, content).at("write", &path)?;
                Ok((path, PathBuf::from(place)))
            })
            .collect()
    }
}

fn hosts_file(options: &NetworkOptions, plan: &Plan, hostname: &str, name: &str, own: &str) -> Result<String> {
    let connected = matches!(plan.connection, Connection::Pasta { .. });
    let gateway = match plan.namespace {
        NetworkNamespace::Host => Some("127.0.0.1"),
        _ if connected => Some(HOST_ADDRESS),
        _ => None,
    };
    let mut text = String::new();
    for (host, address) in &options.hosts {
        let address = match (address.as_str(), gateway) {
            ("host-gateway", Some(gateway)) => gateway,
            ("host-gateway", None) => {
                let message = format!("--add-host {host}:host-gateway: this network has no way to the host");
                return Err(Error::new(Kind::Usage, message));
            }
            (address, _) => address,
        };
        text.push_str(&format!("{address}\t{host}\n"));
    }
    // Names of the host's own loopback would mislead inside; the usual ones follow below.
    let foreign = |line: &&str| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let address = words.next().unwrap_or_default();
        plan.namespace == NetworkNamespace::Host && !address.is_empty()
            || !address.is_empty() && !address.starts_with("127.") && address != "::1"
    };
    for line in own.lines().filter(foreign) {
        text.push_str(line);
        text.push('\n');
    }
    if plan.namespace != NetworkNamespace::Host {
        text.push_str("127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n");
        if let Some(gateway) = gateway {
            text.push_str(&format!("{gateway}\thost.containers.internal host.docker.internal\n"));
        }
        let names = if hostname == name { hostname.to_owned() } else { format!("{hostname} {name}") };
        text.push_str(&format!("127.0.0.1\t{names}\n"));
    } else {
        text.push_str("127.0.0.1\thost.containers.internal host.docker.internal\n");
    }
    Ok(text)
}

/// The container's name servers: the user's, else the host's. Servers on the host's loopback are not reachable from
/// another network; there `pasta` answers and asks the host's.
pub fn resolve_conf(options: &NetworkOptions, plan: &Plan, own: &str) -> String {
    let mut text = String::new();
    let is_local = |address: &str| address.starts_with("127.") || address == "::1";
    let keyword = |line: &str| line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
    let connected = matches!(plan.connection, Connection::Pasta { .. });
    if !options.dns_search.is_empty() {
        text.push_str(&format!("search {}\n", options.dns_search.join(" ")));
    } else {
        for line in own.lines().filter(|line| matches!(keyword(line).as_str(), "search" | "domain")) {
            text.push_str(&format!("{line}\n"));
        }
    }
    if !options.dns.is_empty() {
        for address in &options.dns {
            text.push_str(&format!("nameserver {address}\n"));
        }
    } else {
        if connected {
            text.push_str(&format!("nameserver {DNS_ADDRESS}\n"));
        }
        for line in own.lines().filter(|line| keyword(line) == "nameserver") {
            let address = line.split_ascii_whitespace().nth(1).unwrap_or_default();
            if !(connected && is_local(address)) {
                text.push_str(&format!("nameserver {address}\n"));
            }
        }
    }
    for line in own.lines().filter(|line| keyword(line) == "options") {
        text.push_str(&format!("{line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::NetworkOptions;

    const OWN_HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 machine\n# note\n10.0.0.9 db\n";
    const OWN_RESOLV: &str = "search lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0\n";

    fn check(plan: &Plan, options: &NetworkOptions, hosts: &str, resolv_conf: &str) {
        let files = Files::new(options, plan, "h", "n", (OWN_HOSTS, OWN_RESOLV)).expect("valid");
        assert_eq!(
            (files.hosts.as_str(), files.resolv_conf.as_str(), files.hostname.as_str()),
            (hosts, resolv_conf, "h\n")
        );
    }

    #[test]
    fn files_follow_the_network() {
        let pasta = Connection::Pasta { program: "/p".into(), arguments: Vec::new(), optional: true };
        let plan = Plan { connection: pasta, ..Plan::default() };
        let options = NetworkOptions {
            hosts: vec![("a".to_owned(), "1.2.3.4".to_owned()), ("gw".to_owned(), "host-gateway".to_owned())],
            ..NetworkOptions::default()
        };
        check(
            &plan,
            &options,
            "1.2.3.4\ta\n169.254.1.2\tgw\n10.0.0.9 db\n127.0.0.1\tlocalhost localhost.localdomain\n\
             ::1\tlocalhost localhost.localdomain\n169.254.1.2\thost.containers.internal host.docker.internal\n127.0.0.1\th n\n",
            "search lan\nnameserver 169.254.1.1\nnameserver 10.0.0.1\noptions edns0\n",
        );
        assert!(Files::new(&options, &Plan::default(), "h", "n", ("", "")).is_err(), "no way to the host");
        let host = Plan { namespace: NetworkNamespace::Host, ..Plan::default() };
        let own = NetworkOptions {
            dns: vec!["9.9.9.9".to_owned()],
            dns_search: vec!["x".to_owned(), "y".to_owned()],
            ..NetworkOptions::default()
        };
        check(
            &host,
            &own,
            "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 machine\n10.0.0.9 db\n\
             127.0.0.1\thost.containers.internal host.docker.internal\n",
            "search x y\nnameserver 9.9.9.9\noptions edns0\n",
        );
    }
}
