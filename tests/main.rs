//! The tour: what the real `tidemill` does, one file per chapter, to be read from top to bottom.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests; the lints' own exceptions cover test functions only"
)]

mod a_first_run;
mod a_wall;
mod b_hostile_catalogues;
mod d_time_travel;
mod e_a_running_mill;
mod f_foreign_schemas;
mod g_broken_dags;
mod h_the_same_on_real_parts;
mod i_killed_anywhere;
mod j_what_errors_look_like;
mod k_the_services;
mod l_other_programs_schemas;
mod m_files;
mod n_shared_streams;
mod o_nested_events;
mod p_rules_and_clean_events;
mod project;
mod q_other_readers;
mod r_streams_by_hand;
mod s_schedules;
mod t_any_work;
mod torture;
mod u_killed_runs;
mod v_models_that_keep_up;
mod w_projects_of_dbt;
mod x_published_together;
mod y_week_one;

use std::path::Path;
use std::process::{Command, Output};

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The real binary, started in `folder`, with no setting from the environment of whoever runs the tests.
fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.current_dir(folder).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEMILL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Standard output and standard error as text.
fn texts(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}
