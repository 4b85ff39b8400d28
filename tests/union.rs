//! The union that layerfs serves itself, with whole programs: beside the kernel's, under podman, and on its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Actor, Call, image, machine, peers};

const IMAGE: &str = "localhost/busybox";

/// Those who can mount by FUSE here.
fn mounters() -> Vec<Actor> {
    let (all, open) = (Actor::everyone(), |actor: &Actor| actor.shell("exec 3<>/dev/fuse").output().code == 0);
    let able: Vec<_> = all.into_iter().filter(open).collect();
    if able.is_empty() {
        machine::not_run("a test of the union: nobody may open /dev/fuse");
    }
    able.into_iter().map(Actor::with_busybox).collect()
}

/// Those who can show an image in a folder: root by the kernel, anybody else by `fusermount3`.
fn viewers() -> Vec<Actor> {
    let able = |actor: &Actor| {
        let able = actor.is_root() || actor.shell("command -v fusermount3 && exec 3<>/dev/fuse").output().code == 0;
        if !able {
            machine::not_run("a test of `run mount` as an ordinary user: no fusermount3, or no access to /dev/fuse");
        }
        able
    };
    Actor::everyone().into_iter().filter(able).map(Actor::with_busybox).collect()
}

/// Waits for what another process is about to do.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn an_image_is_the_same_whoever_unites_its_layers() {
    for actor in mounters() {
        let context = actor.path("app");
        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox\n\
             RUN mkdir /d && echo one >/d/one && echo two >/d/two && ln /d/one /d/link && chmod 4755 /d/two\n\
             RUN rm /d/one && echo more >>/d/two && mkdir /d/sub && mkfifo /d/pipe\n\
             RUN rm -r /d/sub && mkdir /d/sub && touch /d/sub/new && mv /d/link /d/moved && ln -s moved /d/soft\n\
             RUN chmod 700 /etc && rm -r /home && echo \"nobody:x:9:9::/:\" >>/etc/passwd\n\
             COPY Dockerfile /d/sub/\n",
        );
        let mut ids = Vec::new();
        for backend in ["overlay", "fuse"] {
            let id = actor.path(backend);
            actor
                .build(["--no-cache", "--mount-backend", backend, "--timestamp", "1700000000", "--iidfile"])
                .arg(&id)
                .arg(&context)
                .ok();
            ids.push(fs::read_to_string(&id).expect("it was written"));
        }
        assert_eq!(ids[0], ids[1], "{}: the backends give different images", actor.name());
    }
}

#[test]
fn a_container_runs_on_a_union_of_our_own() {
    for actor in mounters() {
        let script = "echo changed >/etc/passwd && rm -r /home && mkdir -p /a/b && echo x >/a/b/c && mv /a /e && \
                      grep -c layerfs /proc/mounts >/dev/null && cat /etc/passwd /e/b/c && ls -d /home 2>/dev/null; true";
        let report =
            actor.run(["--rm", "--mount-backend", "fuse", "--network", "none", IMAGE, "sh", "-c", script]).ok();
        assert_eq!(report.lines(), ["changed", "x"], "{report}");
        eventually("the server ends with its mount", || actor.processes().is_empty());
        actor.assert_nothing_left();
    }
}

#[test]
fn an_image_is_shown_in_a_folder_and_taken_away_again() {
    for actor in viewers() {
        let folder = actor.mkdir("seen");
        let seen = folder.display().to_string();
        actor.run(["mount", IMAGE, &seen]).ok();
        let report =
            actor.shell(&format!("cd {seen}; test -x bin/busybox; cat etc/passwd | head -n 1; touch x")).output();
        assert!(report.code != 0 && report.stdout.starts_with("root:"), "{report}");
        assert!(report.stderr.contains("Read-only file system"), "{report}");
        actor.run(["umount", &seen]).ok();
        assert_eq!(fs::read_dir(&folder).expect("a plain folder again").count(), 0);
        actor.run(["umount", &seen]).fails(125).says(&["nothing is mounted on"]);
        actor.run(["mount", IMAGE, &format!("{seen}/nothing")]).fails(125).says(&["nothing", "no such file"]);
        eventually("the server ends with its mount", || actor.processes().is_empty());
        actor.assert_nothing_left();
    }
}

#[test]
fn what_is_shown_stays_whatever_becomes_of_the_images_name() {
    for actor in viewers() {
        let seen = actor.mkdir("seen").display().to_string();
        let layers = || fs::read_dir(actor.store().join("layers")).expect("the store's").count();
        actor.run(["mount", IMAGE, &seen]).ok();
        actor.copy(["rmi", IMAGE]).ok();
        actor.copy(["gc"]).ok();
        actor.shell(&format!("test -x {seen}/bin/busybox && cat {seen}/bin/busybox")).ok();
        actor.run(["umount", &seen]).ok();
        eventually("the server ends with its mount", || actor.processes().is_empty());
        actor.copy(["gc"]).ok();
        assert_eq!(layers(), 0, "nothing is kept any more");
        actor.assert_nothing_left();
    }
}

/// The processes that serve a mount of the actor's: those that speak of it in their command line. All others on the
/// machine have it in their list of mounts.
fn servers(actor: &Actor) -> Vec<Pid> {
    let folder = actor.dir().display().to_string();
    let lines = actor.processes().into_iter().filter(|line| line.contains(&folder));
    lines.filter_map(|line| Pid::from_raw(line.split(':').next()?.parse().ok()?)).collect()
}

#[test]
fn a_mount_whose_server_was_killed_is_replaced_by_the_next() {
    for actor in viewers().iter().filter(|actor| !actor.is_root()) {
        let folder = actor.mkdir("seen");
        let seen = folder.display().to_string();
        for next in ["mount", "umount"] {
            actor.run(["mount", IMAGE, &seen]).ok();
            let killed = servers(actor);
            assert!(!killed.is_empty(), "somebody serves it");
            killed.iter().for_each(|pid| kill_process(*pid, Signal::KILL).expect("it runs"));
            let dead = || actor.shell(&format!("ls {seen}")).output().stderr.contains("not connected");
            eventually("whoever looks is told that nobody answers", dead);
            match next {
                "mount" => {
                    actor.run(["mount", IMAGE, &seen]).ok();
                    actor.shell(&format!("test -x {seen}/bin/busybox")).ok();
                    actor.run(["umount", &seen]).ok();
                }
                _ => drop(actor.run(["umount", &seen]).ok()),
            }
        }
        eventually("the servers end with their mounts", || actor.processes().is_empty());
        actor.assert_nothing_left();
    }
}

/// Folders for a mount by the server's own command line, and the call of it.
fn layers(actor: &Actor) -> (PathBuf, Call) {
    for name in ["lower", "upper", "work", "merged"] {
        actor.mkdir(name);
    }
    actor.write("lower/file", "lower");
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| actor.path(name));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let call = actor.call(machine::programs().join("layerfs-fuse")).args(["-o", &options]).arg(&merged);
    (merged, call)
}

/// A server that dies must not take the mount of the next one with it, which by then lies at the same path.
#[test]
fn mounting_anew_at_the_same_place_never_loses_a_mount() {
    let Some(actor) = Actor::root() else { return };
    for round in 0..500 {
        let (merged, call) = layers(&actor);
        call.ok();
        fs::write(merged.join("mine"), round.to_string()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(fs::read_to_string(merged.join("file")).expect("it is below"), "lower", "round {round}");
        // A process that another test starts meanwhile may hold a file of it for a moment.
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH)
            .unwrap_or_else(|error| panic!("round {round}: the mount is gone: {error}"));
        assert_eq!(fs::read_to_string(actor.path("upper/mine")).expect("it was written"), round.to_string());
        assert!(!merged.join("mine").exists(), "round {round}: what was written went beside the mount");
    }
    eventually("the servers end with their mounts", || actor.processes().is_empty());
}

/// `SIGTERM` takes the mount out of sight; who has something open in it is served to the end.
#[test]
fn nothing_is_lost_on_sigterm_and_the_upper_folder_outlives_sigkill() {
    let Some(actor) = Actor::root() else { return };
    let (merged, call) = layers(&actor);
    call.ok();
    let server = *servers(&actor).first().expect("it serves");
    let mut file = fs::File::create(merged.join("open")).expect("the union is writable");
    kill_process(server, Signal::TERM).expect("it runs");
    eventually("the mount is out of sight", || !merged.join("file").exists());
    for number in 0..1000 {
        std::io::Write::write_all(&mut file, format!("{number}\n").as_bytes()).expect("it is still served");
    }
    file.sync_all().expect("it is still served");
    drop(file);
    let written = fs::read_to_string(actor.path("upper/open")).expect("it is there");
    assert!(written.starts_with("0\n1\n") && written.ends_with("999\n"), "{}", written.len());
    eventually("the server ends with its last user", || actor.processes().is_empty());

    let (merged, call) = layers(&actor);
    call.ok();
    fs::write(merged.join("before"), "kept").expect("the union is writable");
    let server = *servers(&actor).first().expect("it serves");
    kill_process(server, Signal::KILL).expect("it runs");
    eventually("nobody answers any more", || {
        fs::read(merged.join("file")).is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()))
    });
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).expect("it is still mounted");
    let (merged, call) = layers(&actor);
    call.ok();
    assert_eq!(fs::read_to_string(merged.join("before")).expect("it is there"), "kept");
    assert_eq!(fs::read_to_string(merged.join("file")).expect("it is there"), "lower");
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).expect("it is mounted");
    eventually("the server ends with its mount", || actor.processes().is_empty());
}

/// podman with our server as its `mount_program`: it builds an image and runs it.
#[test]
fn podman_builds_and_runs_on_our_union() {
    let Some(actor) = Actor::root() else { return };
    let program = machine::programs().join("layerfs-fuse");
    let runtime = machine::programs().join("layerfs-runtime");
    let storage = format!("--root={0}/root --runroot={0}/run --events-backend=file", actor.dir().display());
    let podman = || {
        let option = format!("--storage-opt=overlay.mount_program={}", program.display());
        let call = peers::call("podman", actor.dir())?.args(storage.split(' ')).arg("--runtime").arg(&runtime);
        Some(call.args(["--storage-driver=overlay", &option]))
    };
    let Some(first) = podman() else { return };
    first.args(["pull", "-q", &format!("oci:{}:busybox", image::busybox().display())]).ok();
    let call = |words: &[&str]| podman().expect("it was there before").args(words).ok();
    actor.write(
        "app/Dockerfile",
        "FROM docker.io/library/busybox\nRUN echo built >/built && rm -r /home && chmod 600 /etc/passwd\nRUN cat /built && mv /built /moved\n",
    );
    call(&[
        "build",
        "-q",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "--network",
        "none",
        "-t",
        "ours",
        "app",
    ]);
    let seen = call(&[
        "run",
        "--rm",
        "--network",
        "none",
        "ours",
        "sh",
        "-c",
        "cat /moved; stat -c %a /etc/passwd; grep ' / ' /proc/mounts; ls -d /home /built 2>/dev/null; true",
    ]);
    let lines = seen.lines();
    assert_eq!((lines[0], lines[1], lines.len()), ("built", "600", 3), "{seen}");
    assert!(lines[2].contains("fuse"), "the union is ours: {seen}");
}
