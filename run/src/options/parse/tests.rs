use super::*;

fn check<T: std::fmt::Debug + PartialEq>(parse: impl Fn(&str) -> Result<T>, cases: &[(&str, Option<T>)]) {
    for (input, expected) in cases {
        let parsed = parse(input).ok();
        assert_eq!(&parsed, expected, "{input}");
    }
}

#[test]
fn sizes_have_units() {
    let cases = [
        ("0", Some(0)),
        ("64m", Some(64 << 20)),
        ("64MB", Some(64 << 20)),
        ("1.5g", Some(3 << 29)),
        ("10 k", Some(10 << 10)),
        ("9223372036854775807", Some(i64::MAX as u64)),
        ("9223372036854775808", None),
        ("9999999999t", None),
        ("", None),
        ("-1", None),
        ("m", None),
        ("1x", None),
    ];
    check(size, &cases);
    check(memory, &[("4k", None), ("512k", Some(512 << 10))]);
    check(memory_swap, &[("-1", Some(-1)), ("1k", Some(1024)), ("-2", None)]);
    check(cpus, &[("1.5", Some(150_000)), ("0", None), ("-1", None), ("NaN", None), ("0.01", Some(1000))]);
}

#[test]
fn volumes_are_binds_with_podmans_defaults() {
    let here = Path::new("/here");
    let bind = |source: &str, destination: &str, options: &[&str]| {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Some(MountRequest::Bind { source: source.into(), destination: destination.into(), options })
    };
    let volume_of = |name: &str, destination: &str, options: &[&str]| {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Some(MountRequest::Volume { name: name.to_owned(), destination: destination.into(), options })
    };
    let cases = [
        ("/a:/b", bind("/a", "/b", &["rbind", "rprivate"])),
        ("./a/../c:/b/:ro,z", bind("/here/c", "/b", &["rbind", "ro", "z", "rprivate"])),
        (".:/w:bind,rslave", bind("/here", "/w", &["bind", "rslave"])),
        ("/data", Some(MountRequest::Folder { destination: "/data".into() })),
        ("cache:/b", volume_of("cache", "/b", &["rbind", "rprivate"])),
        ("cache:/b:ro,nocopy", volume_of("cache", "/b", &["rbind", "ro", "rprivate", "nocopy"])),
        ("a b:/b", None),
        ("/a:b", None),
        ("/a:/", None),
        ("/a:/b:U", bind("/a", "/b", &["rbind", "U", "rprivate"])),
        ("/a:/b:idmap=uids=0-1-2;gids=0-1-2", bind("/a", "/b", &["rbind", "idmap=uids=0-1-2;gids=0-1-2", "rprivate"])),
        ("/a:/b:O", None),
        ("/a:/b:what", None),
        (":/b", None),
        ("/a:/b:ro:x", None),
    ];
    check(|text| volume(text, here), &cases);
    let cases = [
        ("type=bind,src=/a,dst=/b,ro", bind("/a", "/b", &["rbind", "ro", "rprivate"])),
        ("type=bind,source=/a,target=/b,readonly=false", bind("/a", "/b", &["rbind", "rw", "rprivate"])),
        ("type=volume,src=x,dst=/b", volume_of("x", "/b", &["rbind", "rprivate"])),
        ("type=volume,dst=/b", None),
        ("type=bind,dst=/b", None),
        ("type=bind,src=/a", None),
        ("type=bind,src=/a,dst=/b,frob", None),
    ];
    check(|text| mount(text, here), &cases);
}

#[test]
fn ports_are_ranges_with_addresses() {
    let port = |address: Option<&str>, host, container, count, protocol| {
        Some(PortMapping { address: address.map(str::to_owned), host, container, count, protocol })
    };
    let cases = [
        ("80", port(None, 80, 80, 1, Protocol::Tcp)),
        ("8080:80", port(None, 8080, 80, 1, Protocol::Tcp)),
        ("127.0.0.1:9000-9002:90-92/udp", port(Some("127.0.0.1"), 9000, 90, 3, Protocol::Udp)),
        ("[::1]:8080:80/tcp", port(Some("::1"), 8080, 80, 1, Protocol::Tcp)),
        ("127.0.0.1::80", port(Some("127.0.0.1"), 80, 80, 1, Protocol::Tcp)),
        ("8080:80-81", None),
        ("0", None),
        ("65536", None),
        ("80/sctp", None),
        ("1.2.3.4.5:1:1", None),
        ("a:b", None),
    ];
    check(publish, &cases);
}

#[test]
fn signals_have_names_and_numbers() {
    let cases = [
        ("TERM", Some(15)),
        ("sigterm", Some(15)),
        ("9", Some(9)),
        ("RTMIN+3", Some(37)),
        ("SIGRTMAX-1", Some(63)),
        ("RTMIN+31", None),
        ("0", None),
        ("65", None),
        ("NOPE", None),
    ];
    check(signal, &cases);
    assert_eq!((signal_name(9).as_str(), signal_name(40).as_str()), ("SIGKILL", "signal 40"));
}

#[test]
fn environment_takes_values_names_and_prefixes() {
    let host = || vec![("A".to_owned(), "1".to_owned()), ("AB".to_owned(), "2".to_owned())];
    let pairs = |list: &[(&str, &str)]| Some(list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
    let cases = [
        ("X=a=b", pairs(&[("X", "a=b")])),
        ("X=", pairs(&[("X", "")])),
        ("A", pairs(&[("A", "1")])),
        ("NOPE", pairs(&[])),
        ("A*", pairs(&[("A", "1"), ("AB", "2")])),
        ("=x", None),
        ("", None),
    ];
    check(|text| environment(text, host), &cases);
    let file = "# note\n\n A=x y\nAB\n";
    assert_eq!(environment_file(Path::new("f"), file, host).ok(), pairs(&[("A", "x y"), ("AB", "2")]));
    let wrong = environment_file(Path::new("f"), "A=1\nb c=2", host).expect_err("a name with a space");
    assert_eq!(wrong.to_string(), "`f` line 2: `b c` is not a variable's name");
}

#[test]
fn limits_networks_security() {
    let limit = |soft, hard| Some(Ulimit { name: "nofile".to_owned(), soft, hard });
    check(
        ulimit,
        &[
            ("nofile=1024:2048", limit(Some(1024), Some(2048))),
            ("nofile=-1", limit(None, None)),
            ("nofile=3:2", None),
            ("nofile=-1:5", None),
            ("nope=1", None),
        ],
    );
    check(
        network,
        &[
            ("none", Some(NetworkMode::None)),
            ("container:x", Some(NetworkMode::Container("x".to_owned()))),
            ("pasta:-T,80", Some(NetworkMode::Pasta(vec!["-T".to_owned(), "80".to_owned()]))),
            ("bridge", None),
            ("mynet", None),
        ],
    );
    check(
        security,
        &[
            ("no-new-privileges", Some(SecurityOption::NoNewPrivileges)),
            ("seccomp=unconfined", Some(SecurityOption::SeccompUnconfined)),
            ("seccomp:/p.json", Some(SecurityOption::SeccompProfile("/p.json".into()))),
            ("label=type:x", None),
            ("unmask=/proc/*", Some(SecurityOption::Unmask("/proc/*".to_owned()))),
            ("frob", None),
        ],
    );
    check(
        sysctl,
        &[
            ("net.ipv4.ip_forward=1", Some(("net.ipv4.ip_forward".to_owned(), "1".to_owned()))),
            ("kernel.panic=1", None),
            ("net../../x=1", None),
        ],
    );
    check(umask, &[("0022", Some(0o22)), ("8", None), ("1777", None)]);
    check(
        device,
        &[
            (
                "/dev/fuse",
                Some(DeviceRequest {
                    source: "/dev/fuse".into(),
                    destination: "/dev/fuse".into(),
                    access: "rwm".into(),
                }),
            ),
            (
                "/dev/a:/dev/b:r",
                Some(DeviceRequest { source: "/dev/a".into(), destination: "/dev/b".into(), access: "r".into() }),
            ),
            ("nvidia.com/gpu=all", None),
            ("/dev/a:/dev/b:q", None),
        ],
    );
}

#[test]
fn moments_are_times_or_ages() {
    let now = 10_000_000_000_000i128;
    check(
        |text| duration(text, now),
        &[
            ("10s", Some(now - 10_000_000_000)),
            ("1m30s", Some(now - 90_000_000_000)),
            ("5", Some(5_000_000_000)),
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("soon", None),
        ],
    );
}
