//! Inputs of a build that are not in its folder: files on the web, git repositories, archives from standard input, images
//! in layouts. The servers are on loopback; git's own is asked for repositories.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::harness::call::Running;
use crate::harness::http::Request;
use crate::harness::{Actor, Call};

/// Files by path; what was asked for is noted.
struct Web {
    address: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let web = Self { address, files: Arc::default(), asked: Arc::default() };
        let (files, asked) = (web.files.clone(), web.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, asked) = (files.clone(), asked.clone());
                std::thread::spawn(move || Self::serve(stream, &files, &asked));
            }
        });
        web
    }

    fn serve(stream: TcpStream, files: &Mutex<BTreeMap<String, Vec<u8>>>, asked: &Mutex<Vec<String>>) {
        let mut out = stream.try_clone().expect("a socket");
        let mut requests = BufReader::new(stream);
        while let Ok(Some(request)) = Request::read(&mut requests) {
            let body = files.lock().expect("nobody panics").get(&request.path).cloned();
            let tag = body.as_ref().map(|body| format!("\"{}\"", layerfs::digest::Digest::of(body).hex()));
            let same = tag.is_some() && request.header("if-none-match") == tag.as_deref();
            let (status, body) = match body {
                Some(_) if same => ("304 Not Modified", Vec::new()),
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", Vec::new()),
            };
            asked.lock().expect("nobody panics").push(format!("{} {}", request.path, &status[..3]));
            let tag = tag.map_or(String::new(), |tag| format!("ETag: {tag}\r\nLast-Modified: {MODIFIED}\r\n"));
            let head = format!("HTTP/1.1 {status}\r\n{tag}Content-Length: {}\r\n\r\n", body.len());
            if out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body)).is_err() {
                return;
            }
        }
    }

    fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.files.lock().expect("nobody panics").insert(path.to_owned(), body.into());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("nobody panics"))
    }
}

/// A server of the repositories below `repositories/`.
struct Git {
    daemon: Running,
    address: String,
}

impl Git {
    /// With one repository: `v1` has `a` and `sub/b`, `main` has `c` too.
    fn start(actor: &Actor) -> Self {
        actor
            .shell(
                "git init -q -b main work && cd work && git config user.email a@example.com && git config user.name A \
                 && mkdir sub && echo one >a && echo two >sub/b && ln -s a link && chmod 755 a \
                 && printf 'FROM scratch\\nCOPY . /\\n' >Dockerfile && cp Dockerfile sub/ && git add . \
                 && git commit -qm first && git tag -a v1 -m v1 && echo three >c && git add c && git commit -qm second \
                 && mkdir ../repositories && git clone -q --bare . ../repositories/r.git",
            )
            .ok();
        // A port that is free now; git's server takes a number only.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let base = actor.path("repositories").display().to_string();
        let mut daemon = actor
            .call("git")
            .args(["daemon", "--verbose", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={base}"))
            .start();
        let address = format!("git://127.0.0.1:{port}/r.git");
        daemon.wait_for_stderr("Ready to rumble");
        Self { daemon, address }
    }

    fn commit(&self, actor: &Actor, name: &str) -> String {
        let report = actor.call("git").args(["-C", "work", "rev-parse", &format!("{name}^{{commit}}")]).ok();
        report.stdout.trim().to_owned()
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        self.daemon.signal(rustix::process::Signal::TERM);
        self.daemon.ends_within(std::time::Duration::from_secs(20));
    }
}

/// Builds to an archive of files: each path with mode, owner and content.
fn built(actor: &Actor, args: &[&str]) -> BTreeMap<String, String> {
    let out = actor.path("out.tar");
    let output = format!("type=tar,dest={}", out.display());
    call(actor, &[&["-q", "-o", &output], args].concat()).ok();
    files(&out)
}

fn call(actor: &Actor, args: &[&str]) -> Call {
    actor.build(args)
}

fn files(archive: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("the archive"));
    let mut found = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned();
        let header = entry.header();
        let (mode, uid) = (header.mode().expect("a mode") & 0o7777, header.uid().expect("an owner"));
        let (kind, time) = (header.entry_type(), header.mtime().expect("a time"));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let content = String::from_utf8_lossy(&content).into_owned();
        let text = match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => format!("dir {mode:o} {uid}"),
            (_, true) => format!("-> {}", entry.link_name().expect("a link").expect("a target").display()),
            _ => format!("{mode:o} {uid} {} {content:?}", if time == 1_445_412_480 { "2015" } else { "new" }),
        };
        found.insert(path, text);
    }
    found
}

#[test]
fn add_takes_files_from_the_web() {
    for actor in Actor::everyone() {
        let web = Web::start();
        web.put("/d/f.txt", "hello");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o640);
        archive.append_data(&mut header, "member", &b"m\n"[..]).expect("an archive");
        web.put("/a.tar", archive.into_inner().expect("an archive"));
        let url = &web.address;
        let digest = layerfs::digest::Digest::of(b"hello").to_string();
        actor.write(
            "ctx/Dockerfile",
            format!(
                "FROM scratch\nARG WHERE={url}\nADD $WHERE/d/f.txt /in/\nADD --chmod=644 --chown=3 {url}/d/f.txt /as\n\
                 ADD {url}/a.tar /kept.tar\nADD --unpack=true {url}/a.tar /open/\n\
                 ADD --checksum={digest} {url}/d/f.txt?x=1 /checked\n"
            ),
        );
        let made = built(&actor, &["ctx"]);
        let get = |path: &str| made.get(path).map(String::as_str);
        assert_eq!(get("in/f.txt"), Some("600 0 2015 \"hello\""));
        assert_eq!(get("as"), Some("644 3 2015 \"hello\""));
        assert_eq!(get("open/member"), Some("640 0 new \"m\\n\""));
        assert_eq!(get("checked"), Some("600 0 2015 \"hello\""));
        assert!(made.contains_key("kept.tar"), "{made:?}");

        web.asked();
        assert_eq!(built(&actor, &["ctx"]), made);
        let asked = web.asked();
        assert!(asked.iter().all(|line| line.ends_with("304")), "what is known is not sent again: {asked:?}");
        assert!(!asked.iter().any(|line| line.contains("x=1")), "a checksum says enough: {asked:?}");

        web.put("/d/f.txt", "other");
        assert_eq!(built(&actor, &["--build-arg", "X=1", "ctx"])["in/f.txt"], "600 0 2015 \"other\"");
        let message =
            actor.write("ctx/Dockerfile", format!("FROM scratch\nADD --checksum={digest} {url}/d/f.txt /x\n"));
        let stderr = call(&actor, &["-q", "ctx"]).fails(1).stderr;
        assert!(stderr.contains("Dockerfile:2:1: ") && stderr.contains(&format!("not {digest}")), "{stderr}");
        fs::write(message, format!("FROM scratch\nADD {url}/none /x\n")).expect("written");
        let stderr = call(&actor, &["-q", "ctx"]).fails(1).stderr;
        assert!(stderr.contains("the server answers 404"), "{stderr}");
        actor.assert_nothing_left();
    }
}

#[test]
fn add_takes_repositories() {
    for actor in Actor::everyone() {
        let git = Git::start(&actor);
        let (url, first, second) = (&git.address, git.commit(&actor, "v1"), git.commit(&actor, "main"));
        actor.write(
            "ctx/Dockerfile",
            format!(
                "FROM scratch\nADD {url} /head/\nADD {url}#v1 /v1\nADD {url}#v1:sub /sub\nADD {url}#{first} /first\n\
                 ADD {url}?commit={} /short\nADD --keep-git-dir=true --exclude=c {url}?branch=main /kept\n\
                 ADD --checksum={second} --chown=5 {url}#main /owned\n",
                &first[..9]
            ),
        );
        let made = built(&actor, &["ctx"]);
        let below = |folder: &str| -> Vec<&str> {
            let names = made.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
            names.filter(|name| !name.starts_with(".git/")).collect()
        };
        assert_eq!(below("head"), ["Dockerfile", "a", "c", "link", "sub", "sub/Dockerfile", "sub/b"]);
        for folder in ["v1", "first", "short"] {
            assert_eq!(below(folder), ["Dockerfile", "a", "link", "sub", "sub/Dockerfile", "sub/b"], "{folder}");
        }
        assert_eq!(below("sub"), ["Dockerfile", "b"]);
        assert_eq!(below("kept"), [".git", "Dockerfile", "a", "link", "sub", "sub/Dockerfile", "sub/b"]);
        assert_eq!((made["head/a"].as_str(), made["head/link"].as_str()), ("755 0 new \"one\\n\"", "-> a"));
        assert_eq!(made["owned/c"], "644 5 new \"three\\n\"");

        let again = call(&actor, &["-t", "localhost/again", "ctx"]).ok();
        assert_eq!(again.stderr.matches("CACHED").count(), 7, "a commit is known: {}", again.stderr);
        actor.write("ctx/Dockerfile", format!("FROM scratch\nADD --checksum={first} {url}#main /x\n"));
        let stderr = call(&actor, &["-q", "ctx"]).fails(1).stderr;
        assert!(stderr.contains(&format!("leads to commit {second}, not {first}")), "{stderr}");
        actor.write("ctx/Dockerfile", format!("FROM scratch\nADD {url}#none /x\n"));
        let stderr = call(&actor, &["-q", "ctx"]).fails(1).stderr;
        assert!(stderr.contains("hint: check that the repository is there and has `none`"), "{stderr}");
        drop(git);
        actor.assert_nothing_left();
    }
}

#[test]
fn contexts_come_from_elsewhere() {
    for actor in Actor::everyone() {
        let (web, git) = (Web::start(), Git::start(&actor));
        let packed = actor.path("ctx.tar.gz");
        actor.shell("mkdir p && echo x >p/x && printf 'FROM scratch\\nCOPY . /\\n' >p/Dockerfile && tar -C p -czf ctx.tar.gz .").ok();
        web.put("/ctx.tar.gz", fs::read(&packed).expect("the archive"));
        web.put("/Dockerfile", format!("FROM scratch\nADD {}/one /one\n", web.address));
        web.put("/one", "1");
        let (url, git_url) = (&web.address, &git.address);
        let keys = |args: &[&str]| built(&actor, args).into_keys().collect::<Vec<_>>();
        assert_eq!(keys(&[&format!("{git_url}#v1:sub")]), ["Dockerfile", "b"]);
        assert_eq!(keys(&["-f", "sub/Dockerfile", git_url]).len(), 7);
        assert_eq!(keys(&[&format!("{url}/ctx.tar.gz")]), ["Dockerfile", "x"]);
        assert_eq!(keys(&[&format!("{url}/Dockerfile")]), ["one"]);

        let out = actor.path("out.tar");
        let output = format!("type=tar,dest={}", out.display());
        for input in ["ctx.tar.gz", "p/Dockerfile.alone"] {
            actor.write("p/Dockerfile.alone", "FROM scratch\nWORKDIR /made\n");
            actor.shell(&format!("build -q -o {output} - <{input}")).ok();
        }
        assert_eq!(files(&out).into_keys().collect::<Vec<_>>(), ["made"]);

        actor.write("named/Dockerfile", "FROM base AS x\nFROM scratch\nCOPY --from=g /b /g\nCOPY --from=w /x /w\nCOPY --from=x / /i\nCOPY --from=t /here /t\nFROM scratch AS other\nCOPY <<E /here\nE\n");
        actor.write("image/Dockerfile", "FROM scratch\nCOPY <<E /of-layout\nE\n");
        call(&actor, &["-q", "-o", "type=oci,tar=false,dest=layout", "image"]).ok();
        let layout = format!("base=oci-layout://{}", actor.path("layout").display());
        let made = keys(&[
            "--target",
            "1",
            "--build-context",
            &layout,
            "--build-context",
            &format!("g={git_url}#v1:sub"),
            "--build-context",
            &format!("w={url}/ctx.tar.gz"),
            "--build-context",
            "t=target:other",
            "named",
        ]);
        assert_eq!(made, ["g", "i", "i/of-layout", "t", "w"]);
        drop(git);
        actor.assert_nothing_left();
    }
}

#[test]
fn several_platforms_make_an_index() {
    for actor in Actor::everyone() {
        actor.write(
            "ctx/Dockerfile",
            "FROM --platform=$BUILDPLATFORM localhost/busybox AS make\nARG TARGETARCH\nRUN echo $TARGETARCH >/arch\n\
             FROM scratch\nCOPY --from=make /arch /arch\n",
        );
        let actor = actor.with_busybox();
        let both = "linux/amd64,linux/arm64,linux/arm/v6";
        call(&actor, &["-q", "--platform", both, "-t", "localhost/both", "-o", "type=local,dest=out", "ctx"]).ok();
        for (folder, arch) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64"), ("linux_arm_v6", "arm")] {
            let text = fs::read_to_string(actor.path("out").join(folder).join("arch")).expect(folder);
            assert_eq!(text.trim(), arch);
        }
        call(&actor, &["-q", "--platform", both, "-o", "type=oci,tar=false,dest=layout", "ctx"]).ok();
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(actor.path("layout/index.json")).expect("a layout")).expect("an index");
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(actor.path("layout/blobs").join(digest)).expect("an index"))
                .expect("JSON");
        let platforms: Vec<&str> = index["manifests"]
            .as_array()
            .expect("manifests")
            .iter()
            .map(|manifest| manifest["platform"]["architecture"].as_str().expect("an architecture"))
            .collect();
        assert_eq!(platforms, ["amd64", "arm64", "arm"]);

        // Nothing runs where a later step could not.
        actor.write("ctx/Dockerfile", "FROM scratch AS a\nCOPY Dockerfile /\nFROM a\nRUN [\"/x\"]\n");
        let report = call(&actor, &["--platform", "linux/s390x", "ctx"]).fails(1);
        let hint = "this step is for linux/s390x, which this machine (linux/";
        assert!(report.stderr.contains(hint) && !report.stderr.contains("COPY Dockerfile"), "{report}");
        actor.assert_nothing_left();
    }
}

#[test]
fn squashed_layers_hold_the_same_files() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.write(
            "ctx/Dockerfile",
            "FROM localhost/busybox\nRUN mkdir -p /d/e && echo 1 >/d/e/f && ln /d/e/f /d/g && echo x >/gone && rm /bin/vi\n\
             RUN rm -r /d/e /gone && mkdir /d/e && echo 2 >/d/e/new && mkdir /gone && rm -rf /tmp && mkdir /tmp && echo 3 >/tmp/x\n\
             RUN echo more >>/d/g && rm -r /root; mkdir -p /root/new && chmod 700 /root/new\n",
        );
        let plain = built(&actor, &["ctx"]);
        let squashed = built(&actor, &["--squash", "-t", "localhost/squashed", "ctx"]);
        assert_eq!(squashed, plain);
        let document = actor.copy(["inspect", "store:localhost/squashed"]).ok().json();
        let base = actor.copy(["inspect", "store:localhost/busybox"]).ok().json();
        let layers = |document: &serde_json::Value| document["Layers"].as_array().expect("layers").len();
        assert_eq!(layers(&document), layers(&base) + 1);
        actor.assert_nothing_left();
    }
}

#[test]
fn a_dockerfile_is_told_of_instead_of_built() {
    let Some(actor) = Actor::ordinary() else { return };
    actor.write(
        "ctx/Dockerfile",
        "# base The tools\nFROM scratch AS base\n# V the version\nARG V=1\nRUN --mount=type=secret,id=key,required --mount=type=ssh x\n\
         FROM base\nWORKDIR sub\nCOPY $VV /x\n",
    );
    let tell = |what: &str| call(&actor, &[what, "ctx"]).ok().stdout;
    assert_eq!(tell("--call=targets"), "TARGET      DESCRIPTION\nbase        The tools\n(default)\n");
    let outline = tell("--call=outline");
    assert!(outline.contains("BUILD ARG   VALUE   DESCRIPTION\nV           1       the version\n"), "{outline}");
    assert!(outline.contains("SECRET   REQUIRED\nkey      true\n") && outline.contains("default\n"), "{outline}");
    let check = tell("--check");
    assert!(check.starts_with("Check complete, 2 warnings have been found!\n"), "{check}");
    assert!(check.contains("WARNING: WorkdirRelativePath - https://docs.docker.com/"), "{check}");
    assert!(check.contains("Usage of undefined variable '$VV'"), "{check}");
    let json: serde_json::Value = serde_json::from_str(&tell("--call=check,format=json")).expect("JSON");
    assert_eq!(json["warnings"][0]["ruleName"], "WorkdirRelativePath");
    assert_eq!(json["warnings"][0]["location"]["ranges"][0]["start"]["line"], 7);

    let text = "# check=error=true\nFROM scratch\nMAINTAINER me\n";
    actor.write("ctx/Dockerfile", text);
    let report = call(&actor, &["--check", "ctx"]).fails(1);
    assert!(report.stdout.contains("MaintainerDeprecated"), "{report}");
    let report = call(&actor, &["ctx"]).fails(1);
    assert!(report.stderr.contains("Dockerfile:3:1: MaintainerDeprecated: "), "{report}");
    actor.write("ctx/Dockerfile", &text["# check=error=true\n".len()..]);
    let report = call(&actor, &["ctx"]).ok();
    assert!(report.stderr.contains("1 warning found:\n - MaintainerDeprecated: "), "{report}");
}
