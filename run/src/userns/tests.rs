use super::*;
use crate::options::{id_rule, id_rules, user_namespace};

fn range(container: u32, host: u32, size: u32) -> IdRange {
    IdRange { container, host, size }
}

fn both(map: &[IdRange]) -> Mapping {
    Mapping { uids: map.to_vec(), gids: map.to_vec() }
}

/// User 1000 with the subordinate ids 100000 to 165535.
fn user() -> Ids {
    let own = both(&[range(0, 1000, 1), range(1, 100_000, 65_536)]);
    Ids { own, user: Some((1000, 1000)), needed: 100, ..Ids::default() }
}

fn root() -> Ids {
    Ids { own: both(&[range(0, 0, u32::MAX)]), needed: 2000, ..Ids::default() }
}

#[track_caller]
fn check(mode: &str, ids: &Ids, expected: Option<&[IdRange]>) {
    let mode = user_namespace(mode).expect("a mode");
    assert_eq!(plan(&mode, ids).ok().flatten().map(|map| map.uids), expected.map(<[IdRange]>::to_vec), "{mode:?}");
}

#[test]
fn the_user_stays_the_user() {
    check("keep-id", &user(), Some(&[range(0, 1, 1000), range(1000, 0, 1), range(1001, 1001, 64_536)]));
    check("keep-id:uid=0,gid=0", &user(), Some(&[range(0, 0, 1), range(1, 1, 65_536)]));
    check("keep-id:uid=5,gid=7,size=10", &user(), Some(&[range(0, 1, 5), range(5, 0, 1), range(6, 6, 5)]));
    check("keep-id:uid=70000,gid=1", &user(), Some(&[range(0, 1, 65_536), range(70_000, 0, 1)]));
    check("keep-id", &root(), Some(&[range(0, 0, u32::MAX)]));
    check("keep-id:size=5", &root(), None);
    let single = Ids { own: both(&[range(0, 1000, 1)]), ..user() };
    check("keep-id", &single, Some(&[range(1000, 0, 1)]));
    let mode = user_namespace("keep-id:gid=7").expect("a mode");
    assert_eq!(default_user(&mode, user().user).as_deref(), Some("1000:7"));
}

#[test]
fn the_user_may_be_left_out() {
    check("nomap", &user(), Some(&[range(0, 1, 65_536)]));
    check("nomap", &root(), None);
    check("host", &user(), None);
}

#[test]
fn unused_ids_are_found() {
    check("auto", &user(), Some(&[range(0, 1, 1024)]));
    let used = Ids { used: vec![both(&[range(0, 1, 1024)]), both(&[range(0, 2000, 10)])], ..user() };
    check("auto:size=1000", &used, Some(&[range(0, 1025, 975), range(975, 2010, 25)]));
    check("auto:size=70000", &used, None);
    check("auto:size=10,uidmapping=5:0:1", &used, Some(&[range(0, 1025, 5), range(5, 0, 1), range(6, 1030, 4)]));
    let all = Ids { used: vec![both(&[range(0, 1, 65_536)])], ..user() };
    check("auto", &all, None);
    let ranges = both(&[range(0, 500_000, 4096)]);
    check("auto", &Ids { ranges: ranges.clone(), ..root() }, Some(&[range(0, 500_000, 2000)]));
    check("auto", &root(), None);
    let other = Ids { ranges, used: vec![both(&[range(0, 500_000, 1024)])], ..root() };
    check("auto:size=5", &other, Some(&[range(0, 501_024, 5)]));
}

#[track_caller]
fn check_rules(rules: &[&str], ids: &Ids, expected: Option<&[IdRange]>) {
    let rules: Vec<IdRule> = rules.iter().map(|text| id_rule(text).expect("a rule")).collect();
    let planned = plan(&id_rules(&rules, &[]), ids).ok().flatten().map(|map| map.uids);
    assert_eq!(planned, expected.map(<[IdRange]>::to_vec), "{rules:?}");
}

#[test]
fn rules_are_podmans() {
    check_rules(&["0:100000:5000"], &root(), Some(&[range(0, 100_000, 5000)]));
    check_rules(&["0:0:5", "3:9:5"], &root(), None);
    check_rules(&["0:0:5", "9:4:5"], &root(), None);
    check_rules(
        &["0:0:65000", "+100000:1:1"],
        &root(),
        Some(&[range(0, 0, 1), range(2, 2, 64_998), range(100_000, 1, 1)]),
    );
    check_rules(&["+100000:1:1"], &user(), Some(&[range(0, 0, 1), range(1, 2, 65_535), range(100_000, 1, 1)]));
    check_rules(&["0:@100010:2", "7:@1000"], &user(), Some(&[range(0, 11, 2), range(7, 0, 1)]));
    check_rules(&["0:@5:2"], &user(), None);
}

#[test]
fn named_ranges_follow_each_other() {
    let mode = UserNamespace::Named { user: "a".to_owned(), group: "a".to_owned() };
    let ranges = both(&[range(0, 100_000, 10), range(0, 100_100, 5)]);
    let planned = plan(&mode, &Ids { ranges: ranges.clone(), ..root() }).expect("ids").expect("a map");
    assert_eq!(planned.uids, [range(0, 100_000, 10), range(10, 100_100, 5)]);
    let planned = plan(&mode, &Ids { ranges, ..user() }).expect("ids").expect("a map");
    assert_eq!(planned.uids, [range(0, 1, 10), range(10, 101, 5)]);
}

#[test]
fn an_image_needs_as_many_ids_as_it_names() {
    let passwd = b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    assert_eq!(needed(passwd, b"www:x:2000:\nnogroup:x:65534:\n"), 2001);
    assert_eq!(needed(b"", b""), 1);
}
