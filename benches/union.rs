//! A union of layers as programs use it: ours against fuse-overlayfs, the kernel's overlayfs and a plain folder, in
//! turns: every round mounts each of them anew and does the same work on it. Prints medians and ratios.
//!
//! `benches/compare union` prepares the folder and the rivals and calls this; by hand:
//! `UNION_DIR=DIR UNION_SERVERS=ours=PROGRAM,theirs=PROGRAM cargo bench --bench union`. DIR is to be on a file system of
//! its own (a loop device over memory), so that no disk is measured. `UNION_LOWERS` (3) is the number of layers,
//! `UNION_ROUNDS` (5) that of rounds, `UNION_ONLY` a part of the names of the work that is wanted, `UNION_DEBS` packages
//! to install.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use layerfs::mount::{Backend, MountPlan, Upper, attach, overlay};
use rustix::mount::{UnmountFlags, unmount};

/// Files of the image, in folders of 15.
const FILES: usize = 4200;
/// Those of the image whose memory is counted.
const MANY: usize = 30_000;
/// The large file in the lowest layer.
const LARGE: u64 = 128 << 20;
const PAGE: u64 = 4096;

/// What serves the union.
#[derive(Clone, Debug)]
enum Server {
    /// Nobody: a plain folder with the same files.
    Plain,
    Kernel,
    /// A program with the command line of fuse-overlayfs.
    Program(PathBuf),
}

struct Contender {
    name: String,
    server: Server,
}

/// A union that is mounted, or a plain folder.
struct Mounted {
    root: PathBuf,
    child: Option<Child>,
    kernel: bool,
}

impl Mounted {
    /// Kilobytes that the server holds beside what it maps of its program.
    fn memory(&self) -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.as_ref()?.id())).ok()?;
        let field = |name: &str| -> Option<u64> {
            rollup.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        field("Private_Dirty:")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.child.is_some() || self.kernel {
            unmount(&self.root, UnmountFlags::DETACH).unwrap();
        }
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

struct Bench {
    dir: PathBuf,
    lowers: usize,
    only: Option<String>,
    debs: Vec<PathBuf>,
    times: BTreeMap<&'static str, BTreeMap<String, Vec<f64>>>,
    order: Vec<&'static str>,
}

/// A run of numbers that is the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Makes the layers of an image: every folder is in every layer, every file in one.
fn make_image(dir: &Path, lowers: usize, files: usize) {
    let mut numbers = Numbers(1);
    for layer in 0..lowers {
        for folder in 0..files.div_ceil(15) {
            fs::create_dir_all(dir.join(format!("{layer}/{}/{folder}", folder % 20))).unwrap();
        }
    }
    for file in 0..files {
        let layer = numbers.below(lowers as u64);
        let folder = file / 15;
        // Most files are small: between 0 and 45 kB, 11 kB on average.
        let size = (numbers.below(212) * numbers.below(212)) as usize;
        let path = dir.join(format!("{layer}/{}/{folder}/file-{file}", folder % 20));
        fs::write(path, vec![b'a' + (file % 26) as u8; size]).unwrap();
    }
}

impl Bench {
    fn mount(&self, contender: &Contender, image: &str) -> Mounted {
        let own = self.dir.join(&contender.name);
        let root = own.join("root");
        drop(fs::remove_dir_all(own.join("upper")));
        drop(fs::remove_dir_all(own.join("work")));
        for folder in ["root", "upper", "work"] {
            fs::create_dir_all(own.join(folder)).unwrap();
        }
        let lowers = (0..self.lowers).map(|layer| self.dir.join(image).join(layer.to_string()));
        match &contender.server {
            Server::Plain => Mounted { root: self.dir.join(image).join("plain"), child: None, kernel: false },
            Server::Kernel => {
                let upper = Some(Upper { dir: own.join("upper"), work: own.join("work") });
                let plan = MountPlan { lowers: lowers.collect(), upper, volatile: false, backend: Backend::Overlay };
                let mount = overlay(&plan).unwrap();
                attach(std::os::fd::AsFd::as_fd(&mount), &root).unwrap();
                Mounted { root, child: None, kernel: true }
            }
            Server::Program(program) => {
                let lowers: Vec<_> = lowers.map(|path| path.display().to_string()).collect();
                let lowers = lowers.into_iter().rev().collect::<Vec<_>>().join(":");
                let own = own.display();
                let before = fs::metadata(&root).unwrap().dev();
                let child = Command::new(program)
                    .args(["-f", "-o"])
                    .arg(format!("lowerdir={lowers},upperdir={own}/upper,workdir={own}/work"))
                    .arg(&root)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let since = Instant::now();
                while fs::metadata(&root).unwrap().dev() == before {
                    assert!(since.elapsed() < Duration::from_secs(20), "{} mounts nothing", contender.name);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Mounted { root, child: Some(child), kernel: false }
            }
        }
    }

    fn wants(&self, work: &str) -> bool {
        self.only.as_ref().is_none_or(|only| work.contains(only.as_str()))
    }

    /// Does the work, if it is wanted, and notes what it took.
    fn time(&mut self, contender: &Contender, work: &'static str, act: impl FnOnce()) {
        if !self.wants(work) {
            return;
        }
        let since = Instant::now();
        act();
        let took = since.elapsed().as_secs_f64() * 1000.0;
        self.note(contender, work, took);
    }

    fn note(&mut self, contender: &Contender, work: &'static str, value: f64) {
        if !self.order.contains(&work) {
            self.order.push(work);
        }
        self.times.entry(work).or_default().entry(contender.name.clone()).or_default().push(value);
    }

    fn round(&mut self, contender: &Contender) {
        if ["first walk", "warm walk", "warm stat"].iter().any(|work| self.wants(work)) {
            let mounted = self.mount(contender, "image");
            let mut names = Vec::new();
            self.time(contender, "first walk", || names = walk(&mounted.root));
            if names.is_empty() {
                names = walk(&mounted.root);
            }
            self.time(contender, "warm walk", || drop(walk(&mounted.root)));
            self.time(contender, "warm stat, three times", || {
                for _ in 0..3 {
                    names.iter().for_each(|name| assert!(rustix::fs::lstat(name).is_ok()));
                }
            });
        }
        if self.wants("read all, first") || self.wants("read all, warm") {
            let mounted = self.mount(contender, "image");
            let names = files_of(&mounted.root);
            self.time(contender, "read all, first", || read_all(&names));
            self.time(contender, "read all, warm", || read_all(&names));
        }
        if self.wants("1M reads") {
            let mounted = self.mount(contender, "image");
            let large = File::open(mounted.root.join("large")).unwrap();
            self.time(contender, "1M reads, first", || read_through(&large));
            self.time(contender, "1M reads, warm, five times", || (0..5).for_each(|_| read_through(&large)));
        }
        if ["4k reads, first touch", "4k reads, warm"].iter().any(|work| self.wants(work)) {
            let mounted = self.mount(contender, "image");
            let large = File::open(mounted.root.join("large")).unwrap();
            self.time(contender, "4k reads, first touch", || read_pages(&large));
            if !self.wants("4k reads, first touch") {
                read_pages(&large);
            }
            self.time(contender, "4k reads, warm, three times", || (0..3).for_each(|_| read_pages(&large)));
        }
        if self.wants("tar x") || self.wants("rm -r") {
            let mounted = self.mount(contender, "image");
            let new = mounted.root.join("new");
            fs::create_dir(&new).unwrap();
            let archive = self.dir.join("image.tar");
            let extract = || run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&new));
            if !self.wants("tar x") {
                extract();
            }
            self.time(contender, "tar x", extract);
            self.time(contender, "rm -r", || run(Command::new("rm").arg("-r").arg(&new)));
            drop(fs::remove_dir_all(&new));
        }
        if self.wants("dpkg") && !self.debs.is_empty() {
            let mounted = self.mount(contender, "image");
            let system = mounted.root.join("system");
            for folder in ["info", "updates", "triggers"] {
                fs::create_dir_all(system.join("var/lib/dpkg").join(folder)).unwrap();
            }
            fs::write(system.join("var/lib/dpkg/status"), "").unwrap();
            let mut dpkg = Command::new("dpkg");
            dpkg.arg(format!("--root={}", system.display())).args(["--force-depends", "--force-unsafe-io", "--unpack"]);
            dpkg.args(&self.debs);
            self.time(contender, "dpkg", || run(&mut dpkg));
            fs::remove_dir_all(&system).unwrap();
        }
        if self.wants("4k writes") {
            let mounted = self.mount(contender, "image");
            let path = mounted.root.join("written");
            self.time(contender, "4k writes", || write_pages(&path));
            fs::remove_file(&path).unwrap();
        }
        if self.wants("copy up") && !matches!(contender.server, Server::Plain) {
            let mounted = self.mount(contender, "image");
            let names = files_of(&mounted.root.join("3"));
            self.time(contender, "copy up", || {
                for name in &names {
                    fs::set_permissions(name, fs::Permissions::from_mode(0o640)).unwrap();
                }
            });
        }
        for (work, threads) in [("files made, 1 thread", 1), ("files made, 4 threads", 4)] {
            if self.wants(work) {
                let mounted = self.mount(contender, "image");
                let root = mounted.root.join("threads");
                fs::create_dir(&root).unwrap();
                self.time(contender, work, || make_files(&root, threads));
                fs::remove_dir_all(&root).unwrap();
            }
        }
        for (work, threads) in [("parts read, 1 thread", 1), ("parts read, 4 threads", 4)] {
            if self.wants(work) {
                let mounted = self.mount(contender, "image");
                self.time(contender, work, || read_parts(&mounted.root.join("large"), threads));
            }
        }
    }

    fn report(&self, contenders: &[Contender]) {
        print!("{:<28}", format!("{} lowers, ms (least)", self.lowers));
        contenders.iter().for_each(|contender| print!("{:>17}", contender.name));
        println!();
        for work in &self.order {
            print!("{work:<28}");
            for contender in contenders {
                let mut values = self.times[work].get(&contender.name).cloned().unwrap_or_default();
                values.sort_by(f64::total_cmp);
                match values.get(values.len() / 2) {
                    Some(median) => print!("{:>17}", format!("{median:.1} ({:.1})", values[0])),
                    None => print!("{:>17}", "-"),
                }
            }
            println!();
        }
    }
}

/// Lists all folders and looks at everything in them.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // As find(1) asks; the standard library also asks for the time of birth, a message more the first time.
            let stat = rustix::fs::lstat(&path).unwrap();
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

fn files_of(root: &Path) -> Vec<PathBuf> {
    let mut names = walk(root);
    names.retain(|name| name.file_name().is_some_and(|name| name.to_string_lossy().starts_with("file-")));
    names
}

fn read_all(names: &[PathBuf]) {
    let mut buffer = vec![0; 64 << 10];
    for name in names {
        let file = File::open(name).unwrap();
        let mut at = 0;
        while let read @ 1.. = file.read_at(&mut buffer, at).unwrap() {
            at += read as u64;
        }
    }
}

/// Every page once, in an order of which no read-ahead makes sense.
fn read_pages(file: &File) {
    let pages = LARGE / PAGE;
    let mut buffer = [0; PAGE as usize];
    for number in 0..pages {
        file.read_exact_at(&mut buffer, number.wrapping_mul(0x9e3b) % pages * PAGE).unwrap();
    }
}

fn read_through(file: &File) {
    let mut buffer = vec![0; 1 << 20];
    (0..LARGE >> 20).for_each(|part| file.read_exact_at(&mut buffer, part << 20).unwrap());
}

fn write_pages(path: &Path) {
    let mut file = File::create(path).unwrap();
    (0..(64 << 20) / PAGE).for_each(|_| file.write_all(&[7; PAGE as usize]).unwrap());
}

fn make_files(root: &Path, threads: usize) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let folder = root.join(thread.to_string());
                fs::create_dir(&folder).unwrap();
                for number in 0..2000 / threads {
                    fs::write(folder.join(number.to_string()), [1; 500]).unwrap();
                }
            });
        }
    });
}

/// Reads the large file once, each thread a part of it, in pieces that are not guessed ahead.
fn read_parts(path: &Path, threads: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let pieces = (LARGE >> 15) / threads;
                let mut buffer = vec![0; 32 << 10];
                for number in 0..pieces {
                    let piece = thread * pieces + number.wrapping_mul(0x9e3b) % pieces;
                    file.read_exact_at(&mut buffer, piece << 15).unwrap();
                }
            });
        }
    });
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn main() {
    let number = |name, default| setting(name).map_or(default, |value| value.parse().unwrap());
    let (Some(dir), Some(servers)) = (setting("UNION_DIR"), setting("UNION_SERVERS")) else {
        println!("`benches/compare union` says what to mount where");
        return;
    };
    let mut bench = Bench {
        dir: PathBuf::from(dir),
        lowers: number("UNION_LOWERS", 3),
        only: setting("UNION_ONLY"),
        debs: setting("UNION_DEBS").iter().flat_map(|list| list.split(':')).map(PathBuf::from).collect(),
        times: BTreeMap::new(),
        order: Vec::new(),
    };
    let mut contenders: Vec<_> = servers
        .split(',')
        .filter_map(|server| server.split_once('='))
        .map(|(name, path)| Contender { name: name.to_owned(), server: Server::Program(path.into()) })
        .collect();
    contenders.push(Contender { name: "kernel".to_owned(), server: Server::Kernel });
    contenders.push(Contender { name: "plain".to_owned(), server: Server::Plain });

    let image = bench.dir.join("image");
    make_image(&image, bench.lowers, FILES);
    fs::write(image.join("0/large"), vec![5; LARGE as usize]).unwrap();
    for layer in 0..bench.lowers {
        run(Command::new("cp").arg("-a").arg(image.join(format!("{layer}/."))).arg(image.join("plain")));
    }
    let archive = bench.dir.join("image.tar");
    run(Command::new("tar").arg("-cf").arg(archive).arg("--exclude=large").arg("-C").arg(image.join("plain")).arg("."));

    for _ in 0..number("UNION_ROUNDS", 5) {
        for contender in &contenders {
            bench.round(contender);
        }
        contenders.rotate_left(1);
    }
    contenders.sort_by_key(|contender| servers.find(&format!("{}=", contender.name)).unwrap_or(usize::MAX));
    bench.report(&contenders);

    if bench.wants("memory") {
        make_image(&bench.dir.join("many"), bench.lowers, MANY);
        for contender in contenders.iter().filter(|contender| matches!(contender.server, Server::Program(_))) {
            let mounted = bench.mount(contender, "many");
            let start = mounted.memory().unwrap_or_default();
            walk(&mounted.root);
            read_all(&files_of(&mounted.root));
            let end = mounted.memory().unwrap_or_default();
            println!("memory of {}: {start} kB mounted, {end} kB after {MANY} files were read", contender.name);
        }
        fs::remove_dir_all(bench.dir.join("many")).unwrap();
    }
    fs::remove_dir_all(&image).unwrap();
}
