use super::*;

fn containers() -> (tempfile::TempDir, Containers) {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().to_owned();
    (root, Containers { dir })
}

fn make(containers: &Containers, name: Option<&str>, remove: Removal) -> Result<(Owner, Container)> {
    let (owner, container) = containers.create(name, |id, name| {
        let options = RunOptions { remove, ..RunOptions::default() };
        Ok(Record { id: id.to_owned(), name, options, created: now(), ..Record::default() })
    })?;
    owner.write_record(&container.record)?;
    Ok((owner, container))
}

#[test]
fn names_and_ids_find_a_container() {
    let (_root, all) = containers();
    let (_a, first) = make(&all, Some("web"), Removal::Keep).expect("made");
    let (_b, second) = make(&all, None, Removal::Keep).expect("made");
    for text in ["web", &first.record.id, &first.record.id[..12]] {
        assert_eq!(all.find(text).expect("found").record.id, first.record.id, "{text}");
    }
    assert_eq!(all.find(&second.record.name).expect("found").record.id, second.record.id);
    for text in ["", "nope", "../x", &"f".repeat(64)] {
        assert_eq!(all.find(text).expect_err("missing").kind(), Kind::NotFound, "{text}");
    }
    assert_eq!(make(&all, Some("web"), Removal::Keep).expect_err("taken").kind(), Kind::Conflict);
    for wrong in ["", "-x", "a b", "a/b", ".."] {
        assert_eq!(make(&all, Some(wrong), Removal::Keep).expect_err("no name").kind(), Kind::Usage, "{wrong}");
    }
    assert_eq!(all.list().expect("readable").len(), 2);
}

#[test]
fn a_sweep_takes_what_was_half_made_or_left_over_only() {
    let (root, all) = containers();
    let (held, _) = make(&all, None, Removal::OnExit).expect("made");
    let (free, kept) = make(&all, None, Removal::Keep).expect("made");
    let (left, leftover) = make(&all, None, Removal::OnExit).expect("made");
    drop((free, left));
    let half = root.path().join("ab".repeat(32));
    fs::create_dir(&half).expect("made");
    all.sweep(|_, _, owner| owner.remove()).expect("swept");
    let rest: Vec<bool> = [held.dir(), &kept.dir, &leftover.dir, &half].map(Path::exists).to_vec();
    assert_eq!(rest, [true, true, false, false]);
}

#[test]
fn phases_are_derived() {
    let (_root, all) = containers();
    let (owner, container) = make(&all, None, Removal::Keep).expect("made");
    assert_eq!(container.phase(), Phase::Created);
    let own = ProcessId::of(i32::try_from(std::process::id()).expect("a pid")).expect("this process exists");
    let dead = ProcessId { start: own.start + 1, ..own.clone() };
    let phase_of = |status: Status| {
        owner.write_status(&status).expect("written");
        container.again().expect("readable").expect("there").phase()
    };
    assert_eq!(phase_of(Status { process: own, ..Status::default() }), Phase::Running);
    assert_eq!(phase_of(Status { process: dead.clone(), ..Status::default() }), Phase::Ending);
    let finished = Some(Finished { code: 3, ..Finished::default() });
    assert_eq!(phase_of(Status { process: dead.clone(), finished, ..Status::default() }), Phase::Exited(Some(3)));
    phase_of(Status { process: dead, ..Status::default() });
    drop(owner);
    assert_eq!(container.again().expect("readable").expect("there").phase(), Phase::Exited(None));
}

#[test]
fn a_removed_folder_cannot_be_owned() {
    let (_root, all) = containers();
    let (owner, container) = make(&all, None, Removal::Keep).expect("made");
    assert!(container.is_owned());
    owner.remove().expect("removed");
    assert!(Owner::try_take(&container.dir).expect("no failure").is_none());
    assert!(container.again().expect("readable").is_none());
}
