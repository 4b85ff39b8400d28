//! Real containers on a root that holds nothing but busybox, as root and as an ordinary user.
//!
//! The harness is our own because the launcher wants a process with one thread, and the usual one gives each test a
//! thread. Each test runs in a forked process, so that nothing it leaves behind reaches the next.
#![expect(clippy::print_stdout, reason = "a test program reports on stdout")]

mod support;

use layerfs::error::Kind;
use support::{Case, Place, executable, run, run_all, sh, spec};

/// The table of cases from their functions.
macro_rules! cases {
    ($($name:ident),* $(,)?) => { &[$(Case { name: stringify!($name), body: $name }),*] };
}

fn main() -> std::process::ExitCode {
    run_all(cases![
        a_program_runs_as_process_1,
        exit_codes_are_the_programs,
        a_program_that_is_not_there,
        a_program_that_cannot_be_executed,
    ])
}

fn a_program_runs_as_process_1(place: &Place) {
    assert_eq!(sh(place, "echo $$; id -u; pwd"), "1\n0\n/\n");
}

fn exit_codes_are_the_programs(place: &Place) {
    let code = |script: &str| {
        let exit = run(place, &spec(place, &["sh", "-c", script])).expect("it starts").exit;
        (exit.code, exit.signal)
    };
    assert_eq!(code("exit 7"), (7, None));
    // Process 1 of a pid namespace is not killed by its own signals; its child is.
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?"), (137, None));
}

fn a_program_that_is_not_there(place: &Place) {
    for name in ["nothing", "/bin/nothing"] {
        let error = run(place, &spec(place, &[name])).expect_err("there is none");
        assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
        assert_eq!(error.chain(), format!("`{name}` is not in the container"));
    }
}

fn a_program_that_cannot_be_executed(place: &Place) {
    std::fs::write(place.root.join("bin/text"), "text").expect("a file");
    executable(&place.root.join("bin/garbage"), "garbage");
    executable(&place.root.join("bin/orphan"), "#!/no/interpreter\n");
    for (name, kind) in
        [("text", Kind::Denied), ("/bin/garbage", Kind::Denied), ("/etc", Kind::Denied), ("orphan", Kind::NotFound)]
    {
        let error = run(place, &spec(place, &[name])).expect_err("it cannot");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}
