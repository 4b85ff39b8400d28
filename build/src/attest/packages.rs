//! Which packages are installed in an image, by what package managers wrote down there. Pure but for the view.

use layerfs::error::Result;
use layerfs::layer::MergedView;

use super::{rpm, sqlite};

/// Largest database that is read, in bytes.
const DATABASE_MAX: u64 = 512 << 20;

/// A package.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    /// The kind of package, in the words of package URLs: `deb`, `apk`, `rpm`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    /// As the package states it, where it does.
    pub(super) license: String,
    pub(super) supplier: String,
}

/// The distribution, by `/etc/os-release`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) id: String,
    pub(super) version: String,
}

/// What is installed, sorted, and databases that are there and cannot be read.
pub(super) fn installed(view: &MergedView) -> Result<(Vec<Package>, Vec<String>)> {
    let mut packages = Vec::new();
    let mut unread = Vec::new();
    if let Some(bytes) = view.read("/var/lib/dpkg/status", DATABASE_MAX)? {
        packages.extend(dpkg(&bytes));
    }
    // Images without a package manager keep one file for each package.
    for name in view.read_dir("/var/lib/dpkg/status.d")?.unwrap_or_default() {
        let path = std::path::Path::new("/var/lib/dpkg/status.d").join(&name);
        let digests = path.extension().is_some_and(|end| end == "md5sums");
        if let Some(bytes) = view.read(&path, DATABASE_MAX)?.filter(|_| !digests) {
            packages.extend(dpkg(&bytes));
        }
    }
    for path in ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"] {
        if let Some(bytes) = view.read(path, DATABASE_MAX)? {
            packages.extend(apk(&bytes));
        }
    }
    for folder in ["/var/lib/rpm", "/usr/lib/sysimage/rpm"] {
        let path = format!("{folder}/rpmdb.sqlite");
        if let Some(bytes) = view.read(&path, DATABASE_MAX)? {
            match sqlite::blobs(&bytes, "Packages") {
                Some(headers) => packages.extend(headers.iter().filter_map(|header| rpm::package(header))),
                None => unread.push(path),
            }
        }
        for other in ["Packages", "Packages.db"] {
            let path = format!("{folder}/{other}");
            if view.lookup(std::path::Path::new(&path[1..]))?.is_some() {
                unread.push(path);
            }
        }
    }
    packages.sort();
    // A folder that is a symlink to the other one shows the same twice.
    packages.dedup();
    unread.sort();
    unread.dedup();
    Ok((packages, unread))
}

/// dpkg's status file: paragraphs of `Field: value`.
fn dpkg(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let one = |paragraph: &str| {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned()).unwrap_or_default()
        };
        // What was removed but for its configuration is not installed; single files state no status.
        let status = field("Status");
        let there = status.is_empty() || status.ends_with(" installed");
        let package = Package {
            kind: "deb",
            name: field("Package"),
            version: field("Version"),
            architecture: field("Architecture"),
            license: String::new(),
            supplier: field("Maintainer"),
        };
        (there && !package.name.is_empty()).then_some(package)
    };
    text.split("\n\n").filter_map(one).collect()
}

/// apk's database: paragraphs of `X:value`.
fn apk(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let one = |paragraph: &str| {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::to_owned).unwrap_or_default()
        };
        let package = Package {
            kind: "apk",
            name: field("P"),
            version: field("V"),
            architecture: field("A"),
            license: field("L"),
            supplier: field("m"),
        };
        (!package.name.is_empty()).then_some(package)
    };
    text.split("\n\n").filter_map(one).collect()
}

/// The distribution, as far as the image says.
pub(super) fn distribution(view: &MergedView) -> Result<Distribution> {
    let mut found = Distribution::default();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        let Some(bytes) = view.read(path, 1 << 20)? else { continue };
        for line in String::from_utf8_lossy(&bytes).lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match name {
                "ID" => found.id = value,
                "VERSION_ID" => found.version = value,
                _ => {}
            }
        }
        break;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_of_package_managers() {
        let status = "Package: bash\nStatus: install ok installed\nMaintainer: A <a@b>\nArchitecture: amd64\n\
                      Version: 5.2-1\nDescription: x\n Package: not this\n\nPackage: gone\n\
                      Status: deinstall ok config-files\nVersion: 1\n\nPackage: single\nVersion: 2\n";
        let names =
            |list: &[Package]| list.iter().map(|one| format!("{} {}", one.name, one.version)).collect::<Vec<_>>();
        assert_eq!(names(&dpkg(status.as_bytes())), ["bash 5.2-1", "single 2"]);
        let installed = "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\nP:busybox\nV:1.36\nF:bin\nR:busybox\n";
        let packages = apk(installed.as_bytes());
        assert_eq!(names(&packages), ["musl 1.2.5-r0", "busybox 1.36"]);
        assert_eq!((packages[0].license.as_str(), packages[0].architecture.as_str()), ("MIT", "x86_64"));
    }
}
