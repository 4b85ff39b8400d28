use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("valid resources")
}

fn asked<'a>(resources: Option<&'a LinuxResources>, name: &'a str) -> Request<'a> {
    Request { resources, name: Path::new(name), presence: Presence::Limited, unit: None }
}

fn lines(settings: Vec<Setting>) -> Vec<String> {
    settings.into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

#[test]
fn resources_as_files_of_both_versions() {
    let json = r#"{
        "memory": {"limit": 67108864, "swap": 134217728, "reservation": 1048576},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
        "pids": {"limit": 100},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "access": "r"}]
    }"#;
    let resources = resources(json);
    let check = |group: Group, v1: &[&str], v2: &[&str]| {
        assert!(group.is_limited(Some(&resources)), "{group:?}");
        assert_eq!(lines(settings::v1(group, Some(&resources)).expect("valid")), v1);
        assert_eq!(lines(settings::v2(group, Some(&resources), Path::new("/")).expect("valid")), v2);
    };
    check(
        Group::Memory,
        &[
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=134217728",
            "memory.soft_limit_in_bytes=1048576",
        ],
        &["memory.swap.max=67108864", "memory.max=67108864", "memory.low=1048576"],
    );
    check(
        Group::Cpu,
        &["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"],
        &["cpu.weight=100", "cpu.max=50000 100000"],
    );
    check(Group::Cpuset, &["cpuset.cpus=0-1"], &["cpuset.cpus=0-1"]);
    check(Group::Pids, &["pids.max=100"], &["pids.max=100"]);
    let devices = lines(settings::v1(Group::Devices, Some(&resources)).expect("valid"));
    assert_eq!(
        devices[..4],
        ["devices.deny=a", "devices.allow=c 1:* r", "devices.allow=c *:* m", "devices.allow=b *:* m"]
    );
}

#[test]
fn shares_meet_weights_at_their_ends_and_defaults() {
    for (shares, weight) in
        [(0, None), (2, Some(1)), (1024, Some(100)), (262_144, Some(10_000)), (1 << 40, Some(10_000))]
    {
        assert_eq!(settings::weight_of_shares(shares), weight, "{shares} shares");
    }
}

#[test]
fn a_controller_that_is_missing_is_named() {
    let resources = resources(r#"{"memory": {"limit": 1048576}}"#);
    let error = plan_on(&[], &asked(Some(&resources), "name"), true).expect_err("there is none");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.chain(), "memory cannot be limited: the cgroup controller `memory` is not available");
}

#[test]
fn nothing_is_limited_and_nothing_is_needed() {
    let plan = plan_on(&[], &asked(None, "name"), false).expect("an empty plan");
    assert!(plan.folders.is_empty());
    let (cgroup, _) = plan.apply().expect("nothing to do");
    assert_eq!(cgroup, Cgroup::none());
    cgroup.destroy().expect("nothing to remove");
}

/// A tree that looks like cgroup v2 to all but `statfs`.
fn unified(root: &Path, own: &str, controllers: &str, handed_down: &str) -> Hierarchy {
    let own = root.join(own);
    fs::create_dir_all(&own).expect("folders");
    for folder in own.ancestors().take_while(|folder| folder.starts_with(root)) {
        fs::write(folder.join("cgroup.controllers"), controllers).expect("a file");
        fs::write(folder.join("cgroup.procs"), "").expect("a file");
        fs::write(folder.join("cgroup.subtree_control"), handed_down).expect("a file");
        fs::write(folder.join("cgroup.type"), "domain").expect("a file");
    }
    Hierarchy { version: Version::V2, mount: root.to_owned(), controllers: Vec::new(), own }
}

#[test]
fn delegation_follows_the_kernels_rules() {
    let limited = resources(r#"{"memory": {"limit": 1048576}}"#);
    let place = |hierarchy: &Hierarchy| plan_on(std::slice::from_ref(hierarchy), &asked(Some(&limited), "c1"), false);

    // The folder above this process's hands the controller down already.
    let temp = tempfile::tempdir().expect("a temporary folder");
    let hierarchy = unified(temp.path(), "slice/scope", "memory pids", "memory");
    fs::write(hierarchy.own.join("cgroup.subtree_control"), "").expect("a file");
    fs::write(hierarchy.own.join("cgroup.procs"), "1").expect("a file");
    let plan = place(&hierarchy).expect("a place");
    assert_eq!(plan.folders[0].path, temp.path().join("slice/c1"));
    assert_eq!(plan.evacuate, None);

    // Only this process's own folder has it, with processes in it: they move.
    for folder in [temp.path().to_owned(), temp.path().join("slice")] {
        fs::write(folder.join("cgroup.subtree_control"), "").expect("a file");
        fs::write(folder.join("cgroup.procs"), "1").expect("a file");
    }
    let plan = place(&hierarchy).expect("a place");
    assert_eq!(plan.folders[0].path, hierarchy.own.join("c1"));
    assert_eq!(plan.evacuate.as_ref(), Some(&hierarchy.own));
    let [step] = &plan.folders[0].steps[..] else { panic!("{:?}", plan.folders[0].steps) };
    assert_eq!((&step.folder, &step.required[..]), (&hierarchy.own, &["memory".to_owned()][..]));

    // It is not handed down to this process's folder at all.
    fs::write(hierarchy.own.join("cgroup.controllers"), "pids").expect("a file");
    let error = place(&hierarchy).expect_err("no place");
    assert_eq!(
        error.chain(),
        "memory cannot be limited: controller `memory` is not delegated to this user in cgroup `/slice/scope`"
    );
}

#[test]
fn the_way_out_is_one_that_helps() {
    let json = r#"{"memory": {"limit": 1048576}, "cpu": {"cpus": "0"}, "pids": {"limit": 10}}"#;
    let temp = tempfile::tempdir().expect("a temporary folder");
    let session = unified(temp.path(), "user.slice/user-7.slice/session-1.scope", "cpuset memory pids", "");
    fs::write(session.own.join("cgroup.controllers"), "memory").expect("a file");
    for folder in session.own.ancestors().take_while(|folder| folder.starts_with(temp.path())) {
        fs::write(folder.join("cgroup.procs"), "1").expect("a file");
    }
    let refused = || {
        let error = plan_on(std::slice::from_ref(&session), &asked(Some(&resources(json)), "c1"), false);
        error.expect_err("no place")
    };
    let hint = || refused().advice().expect("a hint").to_owned();
    assert_eq!(
        refused().chain(),
        "the set of processors cannot be limited: controllers `cpuset`, `pids` are not delegated to this user in \
         cgroup `/user.slice/user-7.slice/session-1.scope`"
    );
    assert!(hint().starts_with("have root delegate a cgroup to this user"), "{}", hint());
    let service = temp.path().join("user.slice/user-7.slice/user@7.service");
    fs::create_dir(&service).expect("a folder");
    fs::write(service.join("cgroup.controllers"), "memory pids").expect("a file");
    assert!(hint().contains("`sudo systemctl edit user@.service`"), "{}", hint());
    fs::write(service.join("cgroup.controllers"), "cpuset memory pids").expect("a file");
    assert!(hint().starts_with("start it under `systemd-run --user --scope -p Delegate=yes`"), "{}", hint());
}

#[test]
fn a_cgroup_can_be_written_down() {
    let cgroup = Cgroup {
        v1: [("cpu", "/c"), ("cpuacct", "/c"), ("memory", "/m")].map(|(name, path)| (name.into(), path.into())).into(),
        v2: Some("/a".into()),
        unit: None,
    };
    let text = serde_json::to_string(&cgroup).expect("text");
    assert_eq!(serde_json::from_str::<Cgroup>(&text).expect("a cgroup"), cgroup);
    assert_eq!(cgroup.folders(), ["/c", "/m", "/a"].map(Path::new));
}
