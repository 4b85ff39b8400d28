//! What we write the rivals read, what they write we read.

use std::fs;
use std::path::Path;

use crate::harness::call::Running;
use crate::harness::{Actor, Auth, Call, FaultyRegistry, Registry, image, machine, peers};

const DOCKERFILE: &str = "FROM localhost/busybox AS made\nRUN mkdir /made && echo built > /made/it && ln -s it /made/link && chmod 4755 /made/it\n\
    FROM localhost/busybox\nCOPY --from=made /made /made\nRUN rm /etc/group && mkdir /empty\nENV WHO=us\nCMD [\"sh\", \"-c\", \"cat /made/link; echo $WHO\"]\n";

/// An image of ours in a registry, built and pushed by us.
fn pushed(actor: &Actor, registry: &Registry) -> String {
    actor.write("app/Dockerfile", DOCKERFILE);
    actor.build(["-t", "localhost/app", &actor.path("app").display().to_string()]).ok();
    let name = registry.name("ours/app:1");
    actor.copy(["store:localhost/app", &format!("docker://{name}")]).ok();
    name
}

/// Docker's daemon with a network of nothing and a state of its own.
pub(crate) struct Docker {
    daemon: Running,
    socket: String,
    dir: std::path::PathBuf,
}

impl Docker {
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let state = dir.join("docker");
        fs::create_dir_all(&state).expect("a folder in our folder");
        let socket = format!("unix://{}/socket", state.display());
        let at = |name: &str| state.join(name).display().to_string();
        let mut daemon = peers::call("dockerd", dir)?
            .args(["--host", &socket, "--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--insecure-registry", "127.0.0.0/8"])
            .start();
        daemon.wait_for_stderr("API listen on");
        Some(Self { daemon, socket, dir: dir.to_owned() })
    }

    pub(crate) fn docker<const N: usize>(&self, args: [&str; N]) -> Call {
        peers::call("docker", &self.dir)
            .expect("dockerd is there, so is docker")
            .env("DOCKER_HOST", &self.socket)
            .args(args)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.daemon.signal(rustix::process::Signal::TERM);
        self.daemon.ends_within(std::time::Duration::from_secs(20));
    }
}

#[test]
fn skopeo_and_crane_accept_our_image() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let name = pushed(&actor, &registry);
    if let Some(skopeo) = peers::call("skopeo", actor.dir()) {
        let seen = skopeo.args(["inspect", "--tls-verify=false", &format!("docker://{name}")]).ok().json();
        assert!(seen["Env"].as_array().is_some_and(|env| env.iter().any(|pair| pair == "WHO=us")), "{seen}");
    }
    if let Some(crane) = peers::call("crane", actor.dir()) {
        crane.args(["validate", "--insecure", "--remote", &name]).ok();
    }
    for archive in ["oci-archive", "docker-archive"] {
        let file = format!("{archive}:{}", actor.path(archive).display());
        actor.copy(["store:localhost/app", &file]).ok();
        if let Some(skopeo) = peers::call("skopeo", actor.dir()) {
            skopeo.args(["inspect", &file]).ok();
        }
    }
}

#[test]
fn crane_registry_takes_and_gives_our_image() {
    let Some(registry) = Registry::crane() else { return };
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let name = pushed(&actor, &registry);
    assert_eq!(actor.elsewhere().run(["--rm", &name]).ok().stdout, "built\nus\n");
}

#[test]
fn podman_runs_our_image() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let actor = actor.with_busybox();
    let name = pushed(&actor, &registry);
    let storage = ["--root", "podman-root", "--runroot", "podman-run"].map(|word| match word.strip_prefix("podman") {
        Some(rest) => actor.path(&format!("podman{rest}")).display().to_string(),
        None => word.to_owned(),
    });
    let Some(podman) = peers::call("podman", actor.dir()) else { return };
    let said = podman.args(&storage).args(["run", "--rm", "--network", "none", "--tls-verify=false", &name]).ok();
    assert_eq!(said.stdout, "built\nus\n");
}

#[test]
fn docker_runs_our_image_and_we_run_dockers() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let actor = actor.with_busybox();
    let name = pushed(&actor, &registry);
    let Some(docker) = Docker::start(actor.dir()) else { return };
    assert_eq!(docker.docker(["run", "--rm", "--network", "none", &name]).ok().stdout, "built\nus\n");

    // The same Dockerfile built by BuildKit on the same base, which it takes from the registry.
    let base = registry.name("ours/busybox:1");
    actor.copy(["store:localhost/busybox", &format!("docker://{base}")]).ok();
    actor.write("theirs/Dockerfile", DOCKERFILE.replace("localhost/busybox", &base));
    let theirs = registry.name("theirs/app:1");
    docker.docker(["build", "--network", "none", "-t", &theirs, &actor.path("theirs").display().to_string()]).ok();
    docker.docker(["push", "-q", &theirs]).ok();
    assert_eq!(actor.run(["--rm", &theirs]).ok().stdout, "built\nus\n");
    let Some(user) = Actor::ordinary() else { return };
    assert_eq!(user.run(["--rm", &theirs]).ok().stdout, "built\nus\n");
    user.copy([&format!("docker://{theirs}"), "store:localhost/theirs"]).ok();
    let archive = actor.path("saved.tar").display().to_string();
    docker.docker(["save", "-o", &archive, &theirs]).ok();
    actor.copy([&format!("docker-archive:{archive}"), "store:localhost/saved"]).ok();
    assert_eq!(actor.run(["--rm", "localhost/saved"]).ok().stdout, "built\nus\n");
    let ours = actor.path("ours.tar").display().to_string();
    actor.copy(["store:localhost/app", &format!("docker-archive:{ours}:localhost/app:loaded")]).ok();
    docker.docker(["load", "-i", &ours]).ok();
    assert_eq!(docker.docker(["run", "--rm", "--network", "none", "localhost/app:loaded"]).ok().stdout, "built\nus\n");
}

#[test]
fn we_take_what_buildah_builds() {
    let registry = Registry::start();
    let Some(actor) = Actor::root() else { return };
    let actor = actor.with_busybox();
    let base = registry.name("ours/busybox:1");
    actor.copy(["store:localhost/busybox", &format!("docker://{base}")]).ok();
    actor.write("theirs/Dockerfile", DOCKERFILE.replace("localhost/busybox", &base));
    let storage =
        format!("--root {0}/buildah-root --runroot {0}/buildah-run --storage-driver overlay", actor.dir().display());
    let theirs = registry.name("theirs/buildah:1");
    let Some(buildah) = peers::call("buildah", actor.dir()) else { return };
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let context = actor.path("theirs").display().to_string();
    buildah
        .args(words(&storage))
        .args(words(&format!("build --tls-verify=false --isolation oci --network none --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 -q -t {theirs} {context}")))
        .ok();
    let buildah = peers::call("buildah", actor.dir()).expect("it was there before");
    buildah.args(words(&storage)).args(words(&format!("push --tls-verify=false -q {theirs}"))).ok();
    assert_eq!(actor.run(["--rm", &theirs]).ok().stdout, "built\nus\n");
    let Some(user) = Actor::ordinary() else { return };
    assert_eq!(user.run(["--rm", &theirs]).ok().stdout, "built\nus\n");
}

#[test]
fn we_take_what_umoci_makes() {
    let Some(actor) = Actor::root() else { return };
    let layout = actor.path("umoci");
    let umoci = |line: &str| Some(peers::call("umoci", actor.dir())?.args(line.split_whitespace()));
    let at = layout.display();
    let Some(init) = umoci(&format!("init --layout {at}")) else { return };
    init.ok();
    let bundle = actor.path("bundle");
    for line in [format!("new --image {at}:app"), format!("unpack --image {at}:app {}", bundle.display())] {
        umoci(&line).expect("it was there before").ok();
    }
    fs::create_dir_all(bundle.join("rootfs/bin")).expect("a folder in our folder");
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).expect("the package busybox-static is installed");
    for line in [
        format!("repack --image {at}:app {}", bundle.display()),
        format!("config --image {at}:app --config.entrypoint /bin/busybox --config.cmd echo --config.cmd umoci"),
    ] {
        umoci(&line).expect("it was there before").ok();
    }
    actor.copy([&format!("oci:{at}:app"), "store:localhost/umoci"]).ok();
    assert_eq!(actor.run(["--rm", "localhost/umoci"]).ok().stdout, "umoci\n");
}

#[test]
fn all_platforms_of_an_index_travel_bit_for_bit() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let base = registry.name("multi/base:1");
    actor.copy(["store:localhost/busybox", &format!("docker://{base}")]).ok();
    let Some(crane) = peers::call("crane", actor.dir()) else { return };
    let index = registry.name("multi/index:1");
    crane.args(["index", "append", "--insecure", "-m", &base, "-t", &index]).ok();
    let digest = |name: &str| {
        peers::call("crane", actor.dir())
            .expect("it was there before")
            .args(["digest", "--insecure", name])
            .ok()
            .result()
            .to_owned()
    };
    let copied = registry.name("multi/copied:1");
    actor.copy([&format!("docker://{index}"), &format!("docker://{copied}")]).ok();
    assert_eq!(digest(&index), digest(&copied));
}

/// What our programs are tested against has to be a registry in the eyes of others first.
#[test]
fn the_registries_of_these_tests_are_registries_to_skopeo_and_crane() {
    let dir = machine::folder();
    let layout = format!("oci:{}:busybox", image::busybox().display());
    let user = Some(("robot", "s3cret"));
    for auth in [
        Auth::Open,
        Auth::Basic { user: "robot", password: "s3cret" },
        Auth::Bearer { user },
        Auth::Bearer { user: None },
    ] {
        let registry = FaultyRegistry::start(auth);
        let name = registry.name("group/app:1");
        let Some(skopeo) = peers::call("skopeo", dir.path()) else { return };
        skopeo
            .args([
                "copy",
                "-q",
                "--dest-tls-verify=false",
                "--dest-creds",
                "robot:s3cret",
                &layout,
                &format!("docker://{name}"),
            ])
            .ok();
        let login = peers::call("crane", dir.path()).expect("it was there before");
        login.args(["auth", "login", registry.address(), "-u", "robot", "-p", "s3cret"]).ok();
        let crane = peers::call("crane", dir.path()).expect("it was there before");
        crane.args(["validate", "--insecure", "--remote", &name]).ok();
        let crane = peers::call("crane", dir.path()).expect("it was there before");
        assert_eq!(crane.args(["ls", "--insecure", &registry.name("group/app")]).ok().stdout, "1\n");
    }
}
