//! A disk that is really full, and one that can only be read.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::{Stage, assert_explains};
use crate::harness::disk::{Mounted, mount_apart};
use crate::harness::stored::{Stored, assert_whole};
use crate::harness::{Actor, Call, machine};

/// Fills the disk until this many bytes are left.
fn fill(folder: &Path, room: u64) -> std::path::PathBuf {
    let path = folder.join("filler");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).expect("there is room");
    let piece = vec![1; 64 << 10];
    while file.write_all(&piece).and_then(|()| file.sync_data()).is_ok() {}
    for byte in 0..4096_u64 {
        if file.write_all(&[byte as u8]).is_err() {
            break;
        }
    }
    let size = file.metadata().expect("it is open").len();
    file.set_len(size.saturating_sub(room)).and_then(|()| file.sync_all()).expect("less than before");
    path
}

/// A party whose store lies on a small disk of its own, with what the stage's own store has.
fn on_small_disk(stage: &Stage, kind: &str) -> (Actor, Mounted) {
    mount_apart();
    let actor = stage.actor.elsewhere();
    let above = actor.mkdir("home/.local/share");
    let mounted = match kind {
        "tmpfs" => Mounted::new(kind, "size=8m", Path::new("none"), &above),
        _ => {
            let image = actor.path("disk.img");
            std::fs::File::create(&image).and_then(|file| file.set_len(12 << 20)).expect("a file in our folder");
            Call::new(format!("mkfs.{kind}")).args(["-q", "-F"]).arg(&image).ok();
            Mounted::new(kind, "loop", &image, &above)
        }
    };
    machine::copy_tree(&stage.actor.store(), &actor.store());
    (actor, mounted)
}

fn full(stage: &Stage, kind: &str) {
    let (actor, mounted) = on_small_disk(stage, kind);
    let above = actor.path("home/.local/share");
    actor.copy(["gc"]).ok();
    let before = Stored::of(&actor.store());
    let mut refused = 0;
    for room in [0, 4 << 10, 64 << 10, 160 << 10] {
        let what = format!("{kind}, {room} bytes left, {}", actor.name());
        let filler = fill(&above, room);
        let report = actor.copy(["pull", "--unpack", &stage.pulled]).output();
        if report.code != 0 {
            refused += 1;
            assert_eq!(report.code, 1, "{what}\n{report}");
            assert_explains(&report, "no space left on device", &format!("{what}\n{report}"));
        }
        assert_whole(&actor.store(), &before, &what);
        // Looking needs no room.
        assert!(actor.copy(["images"]).ok().stdout.contains("localhost/busybox"), "{what}");
        std::fs::remove_file(filler).expect("root may remove it");
        actor.copy(["pull", "--unpack", &stage.pulled]).ok();
        actor.copy(["rmi", &stage.pulled]).ok();
        actor.copy(["gc"]).ok();
        before.assert_same(&Stored::of(&actor.store()), &what);
    }
    assert!(refused > 0, "{kind}: the disk was never full");

    // Freeing needs no room either.
    let filler = fill(&above, 0);
    actor.copy(["rmi", "localhost/busybox"]).ok();
    actor.copy(["gc"]).ok();
    actor.copy(["pull", "--unpack", &stage.pulled]).ok();
    let index = std::fs::read_to_string(actor.store().join("index.json")).expect("there is an index");
    assert!(!index.contains("localhost/busybox") && index.contains(&stage.pulled), "{index}");
    std::fs::remove_file(filler).expect("root may remove it");
    mounted.unmount();
}

#[test]
fn on_a_full_disk_commands_say_so_and_removal_makes_room() {
    if Actor::root().is_none() {
        return;
    }
    for actor in Actor::everyone() {
        let stage = Stage::new(actor);
        for kind in ["tmpfs", "ext4"] {
            full(&stage, kind);
        }
    }
}

#[test]
fn a_store_that_can_only_be_read_is_read() {
    let Some(root) = Actor::root() else { return };
    let stage = Stage::new(root);
    let (actor, mounted) = on_small_disk(&stage, "ext4");
    let remount = |how: &str| drop(Call::new("mount").args(["-o", how]).arg(actor.path("home/.local/share")).ok());
    remount("remount,ro");
    assert!(actor.copy(["images"]).ok().stdout.contains("localhost/busybox"));
    actor.copy(["store:localhost/busybox", &format!("oci-archive:{}", actor.path("out.tar").display())]).ok();
    let lines: [&[&str]; 4] = [
        &["pull", &stage.pulled],
        &["tag", "localhost/busybox", "localhost/x"],
        &["rmi", "localhost/busybox"],
        &["gc"],
    ];
    for line in lines {
        let report = actor.copy(line).fails(1);
        assert_explains(&report, "read-only file system", &format!("{line:?}\n{report}"));
    }
    let report = actor.run(["--rm", "localhost/busybox", "true"]).fails(125);
    assert_explains(&report, "read-only file system", &report.to_string());
    remount("remount,rw");
    actor.copy(["pull", &stage.pulled]).ok();
    mounted.unmount();
}
