//! Real containers on a root that holds nothing but busybox, as root and as an ordinary user.
//!
//! The harness is our own because the launcher wants a process with one thread, and the usual one gives each test a
//! thread. Each test runs in a forked process, so that nothing it leaves behind reaches the next.
#![expect(clippy::print_stdout, reason = "a test program reports on stdout")]

mod hostile;
mod inside;
mod life;
mod support;

use support::{Case, run_all};

/// The table of cases from their functions.
macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => { &[$(Case { name: stringify!($name), body: $module::$name }),*] };
}

fn main() -> std::process::ExitCode {
    run_all(cases![
        life::a_program_runs_as_process_1,
        life::a_stack_of_layers,
        life::a_machine_that_shares_its_mounts,
        life::a_procfs_that_the_kernel_refuses,
        life::devices_are_guarded_on_both_versions,
        life::exit_codes_are_the_programs,
        life::a_program_that_is_not_there,
        life::a_program_that_cannot_be_executed,
        life::a_failed_set_up_is_not_about_the_program,
        life::a_container_that_is_not_started_leaves_nothing,
        life::a_launcher_that_dies_takes_what_waits_along,
        life::kill_and_destroy,
        life::a_terminal_of_its_own,
        life::exec_joins_everything,
        life::exec_in_a_container_that_ended,
        life::exec_with_a_terminal,
        life::namespaces_of_another_container,
        life::a_user_namespace_of_its_own,
        life::limits_hold,
        life::limits_that_cannot_be_had,
        life::steps_run_at_once,
        life::steps_can_be_cancelled,
        life::steps_die_with_their_parent,
        inside::ids_and_capabilities,
        inside::no_new_privileges_and_seccomp,
        inside::namespaces_are_new,
        inside::the_usual_mounts,
        inside::devices,
        inside::signals_are_as_they_should_be,
        inside::only_the_streams_are_open,
        inside::descriptors_can_be_preserved,
        inside::limits_umask_and_score,
        inside::names_sysctls_and_loopback,
        inside::binds_and_their_options,
        inside::a_read_only_root,
        inside::a_tmpfs_that_starts_full,
        inside::a_working_folder_is_made,
        hostile::cve_2019_5736_own_program,
        hostile::cve_2019_19921_proc_is_a_symlink,
        hostile::cve_2024_21626_working_folder_by_descriptor,
        hostile::cve_2025_31133_null_is_a_symlink,
        hostile::cve_2026_41579_dev_is_a_symlink,
        hostile::mount_targets_stay_in_the_root,
        hostile::capabilities_are_not_inherited,
    ])
}
