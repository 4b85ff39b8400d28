//! Images that try to get out: one test for each known way, named by its number.

use std::fs;
use std::os::unix::fs::symlink;

use layerfs::error::Kind;

use crate::life::add_mount;
use crate::support::{Place, executable, run, spec};

pub(crate) fn cve_2019_5736_own_program(place: &Place) {
    executable(&place.root.join("bin/script"), "#!/proc/self/exe\n");
    symlink("/proc/self/exe", place.root.join("bin/link")).expect("a link");
    for name in ["/proc/self/exe", "/bin/link", "script"] {
        let error = run(place, &spec(place, &[name])).expect_err("our own program is not the container's");
        assert_eq!(error.kind(), Kind::Denied, "{name}: {error:?}");
    }
}

pub(crate) fn cve_2019_19921_proc_is_a_symlink(place: &Place) {
    fs::create_dir(place.root.join("fake")).expect("a folder");
    for name in ["proc", "sys"] {
        symlink("fake", place.root.join(name)).expect("a link");
        let error = run(place, &spec(place, &["true"])).expect_err("it must lie where its name says");
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
        assert!(error.chain().contains("symlink"), "{error:?}");
        fs::remove_file(place.root.join(name)).expect("the link");
    }
}

pub(crate) fn cve_2024_21626_working_folder_by_descriptor(place: &Place) {
    for number in 3..32 {
        let mut spec = spec(place, &["pwd"]);
        spec.process_mut().as_mut().expect("a process").set_cwd(format!("/proc/self/fd/{number}").into());
        let error = run(place, &spec).expect_err("no descriptor leads anywhere");
        assert!(error.chain().contains("working folder"), "{number}: {error:?}");
    }
}

pub(crate) fn cve_2025_31133_null_is_a_symlink(place: &Place) {
    // The image's own /dev is covered, so the attack needs a root whose /dev is a bind mount of the image's making.
    fs::create_dir_all(place.scratch.join("pts")).expect("folders");
    symlink("/proc/sys/kernel/core_pattern", place.scratch.join("null")).expect("a link");
    let mut spec = spec(place, &["sh", "-c", "stat -c %t:%T /proc/interrupts; wc -c </proc/interrupts"]);
    let source = place.scratch.display();
    let mounts = spec.mounts_mut().as_mut().expect("mounts");
    mounts.retain(|mount| !mount.destination().starts_with("/dev"));
    add_mount(&mut spec, &format!(r#"{{"destination":"/dev","type":"bind","source":"{source}","options":["bind"]}}"#));
    assert_eq!(run(place, &spec).expect("it starts").out, "1:3\n0\n");
}

pub(crate) fn cve_2026_41579_dev_is_a_symlink(place: &Place) {
    let victim = place.scratch.join("victim");
    fs::create_dir(&victim).expect("a folder");
    symlink("/../../../../../../../../../../../../../../tmp", place.root.join("dev")).expect("a link");
    let outside = || {
        let mut names: Vec<_> = fs::read_dir("/tmp").expect("/tmp").flatten().map(|entry| entry.file_name()).collect();
        names.retain(|name| ["null", "pts", "shm", "console"].iter().any(|own| name == own));
        names
    };
    let before = outside();
    // Whether it starts is not the point.
    let _ = run(place, &spec(place, &["true"]));
    assert_eq!(outside(), before);
}

pub(crate) fn mount_targets_stay_in_the_root(place: &Place) {
    let canary = place.scratch.join("canary");
    fs::create_dir(&canary).expect("a folder");
    symlink(&canary, place.root.join("absolute")).expect("a link");
    symlink("../../../../../../../../etc", place.root.join("up")).expect("a link");
    let mut spec = spec(place, &["sh", "-c", "test -d /up/new && echo made"]);
    add_mount(&mut spec, r#"{"destination":"/absolute/new","type":"tmpfs","source":"tmpfs","options":["nodev"]}"#);
    add_mount(&mut spec, r#"{"destination":"/up/new","type":"tmpfs","source":"tmpfs","options":["nodev"]}"#);
    assert_eq!(run(place, &spec).expect("it starts").out, "made\n");
    assert_eq!(fs::read_dir(&canary).expect("the canary").count(), 0);
    assert!(!std::path::Path::new("/etc/new").exists());
    assert!(place.root.join("etc/new").is_dir());
}

/// CVE-2022-24769 and its kin: what is inheritable comes back to an ordinary user by a file with capabilities.
pub(crate) fn capabilities_are_not_inherited(place: &Place) {
    let out = run(place, &spec(place, &["grep", "CapInh", "/proc/self/status"])).expect("it starts").out;
    assert_eq!(out, "CapInh:\t0000000000000000\n");
}
