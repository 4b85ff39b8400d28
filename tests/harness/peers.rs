//! The rivals, as `benches/peers` installs them. A test that wants one that is not there is noted as not run.

use std::path::{Path, PathBuf};

use super::{Call, machine};

/// Where a rival's command lies.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let peers = std::env::var_os("PEERS").map_or_else(|| PathBuf::from("/var/cache/layerfs-peers"), PathBuf::from);
    let path = peers.join("bin").join(name);
    if machine::is_root() && peers.join(".done").exists() && path.exists() {
        return Some(path);
    }
    machine::not_run(&format!("rival: {name} (benches/peers installs it, as root)"));
    None
}

/// A rival's command, called as root in this folder, with a home of its own there.
pub(crate) fn call(name: &str, dir: &Path) -> Option<Call> {
    let home = dir.join("peer-home");
    std::fs::create_dir_all(&home).expect("a folder in our folder");
    Some(Call::new(find(name)?).env("HOME", home).dir(dir))
}
