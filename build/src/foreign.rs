//! What this machine can run: its own programs, those of its 32-bit past, and what `binfmt_misc` has an emulator for.

use std::fs;
use std::path::Path;

use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;

use crate::dockerfile::ParseError;
use crate::dockerfile::source::Source;
use crate::graph::{Action, Graph};

/// Where the kernel tells of its emulators.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Looks, before anything is run, whether every `RUN` of the graph can be.
///
/// # Errors
/// One is for a machine that this one cannot stand in for; the error shows its place.
pub(crate) fn check(graph: &Graph, source: &Source) -> Result<()> {
    let host = Platform::host();
    for stage in &graph.stages {
        let Some(step) = stage.steps.iter().find(|step| matches!(step.action, Action::Run(_))) else { continue };
        if runs(&stage.platform, &host, Path::new(REGISTERED)) {
            continue;
        }
        let what = format!("this step is for {}, which this machine ({host}) cannot run", stage.platform);
        let error = Error::new(Kind::Unsupported, ParseError::new(source, step.span, what).to_string());
        return Err(error.hint(
            "register an emulator (Debian: apt install qemu-user-static binfmt-support), or run the step on \
             --platform=$BUILDPLATFORM and COPY what it makes",
        ));
    }
    Ok(())
}

fn runs(wanted: &Platform, host: &Platform, registered: &Path) -> bool {
    if host.serves(wanted).is_some() || wanted.serves(host).is_some() {
        return true;
    }
    let compatible = [("amd64", "386"), ("arm64", "arm")];
    let (own, other) = (host.architecture.as_str(), wanted.architecture.as_str());
    if wanted.os != host.os {
        return false;
    }
    own == other || compatible.contains(&(own, other)) || has_emulator(other, registered)
}

/// What the first bytes of an architecture's programs say: word size, byte order, machine (`elf(5)`).
fn elf(architecture: &str) -> Option<(u8, u8, u16)> {
    Some(match architecture {
        "amd64" => (2, 1, 62),
        "386" => (1, 1, 3),
        "arm64" => (2, 1, 183),
        "arm" => (1, 1, 40),
        "riscv64" => (2, 1, 243),
        "ppc64le" => (2, 1, 21),
        "s390x" => (2, 2, 22),
        "mips64le" => (2, 1, 8),
        "mips64" => (2, 2, 8),
        "loong64" => (2, 1, 258),
        _ => return None,
    })
}

/// Whether an emulator is registered that the kernel has open (`F`): one that it would look for in the image does not
/// count.
fn has_emulator(architecture: &str, registered: &Path) -> bool {
    let Some((size, order, machine)) = elf(architecture) else { return false };
    let machine = if order == 1 { machine.to_le_bytes() } else { machine.to_be_bytes() };
    let Ok(entries) = fs::read_dir(registered) else { return false };
    entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let enabled = text.lines().next() == Some("enabled");
        let open = field("flags:").is_some_and(|flags| flags.contains('F'));
        let magic = field("magic").map(bytes).unwrap_or_default();
        let own = magic.get(4..6) == Some(&[size, order]) && magic.get(18..20) == Some(&machine);
        enabled && open && magic.starts_with(b"\x7fELF") && own
    })
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_count_if_the_kernel_holds_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let magic = "7f454c460201010000000000000000000200b700";
        let entry =
            |flags: &str| format!("enabled\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset 0\nmagic {magic}\n");
        let platform = |text: &str| text.parse::<Platform>().expect("a platform");
        let here = platform("linux/amd64");
        let runs = |text: &str| runs(&platform(text), &here, dir.path());
        for (text, expected) in
            [("linux/amd64", true), ("linux/386", true), ("linux/arm64", false), ("windows/amd64", false)]
        {
            assert_eq!(runs(text), expected, "{text}");
        }
        fs::write(dir.path().join("qemu-aarch64"), entry("PO")).expect("written");
        assert!(!runs("linux/arm64"), "the image has no emulator");
        fs::write(dir.path().join("qemu-aarch64"), entry("POCF")).expect("written");
        assert!(runs("linux/arm64") && !runs("linux/riscv64"));
    }
}
