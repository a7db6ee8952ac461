//! What a person sees when something is wrong: what, where, why, fix, and the exit code.
//!
//! Each case has its file under `tests/golden/errors/`. `UPDATE=1 cargo test` writes them anew; a person reads the diff.
use std::fs;
use std::path::Path;

use super::{ROOT, texts, tidemill};

/// Runs `tidemill` in a new project with these settings and compares standard error and the exit code with the golden file.
fn looks_like(name: &str, settings: Option<&str>, arguments: &[&str], variables: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    if let Some(settings) = settings {
        fs::write(folder.path().join("tidemill.toml"), settings).unwrap();
    }

    let output = tidemill(folder.path()).args(arguments).envs(variables.iter().copied()).output().unwrap();

    let (out, err) = texts(&output);
    let real = folder.path().canonicalize().unwrap();
    let err = err.replace(&*real.to_string_lossy(), "PROJECT").replace(&*folder.path().to_string_lossy(), "PROJECT");
    let seen = format!("$ tidemill {}\n{err}exit code {}\n", arguments.join(" "), output.status.code().unwrap());
    assert_eq!(out, "", "{name}: a failure prints no result");
    golden(&Path::new(ROOT).join("tests/golden/errors").join(format!("{name}.txt")), &seen);
}

fn golden(file: &Path, seen: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, seen).unwrap();
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    assert_eq!(seen, expected, "{} is different; UPDATE=1 writes it anew", file.display());
}

#[test]
fn no_project() {
    looks_like("no_project", None, &["settings"], &[]);
}

#[test]
fn settings_with_several_problems() {
    let text = "[lake]\nulr = \"s3://bucket\"\n\n[streams]\nlinger_ms = \"250\"\nmax_bytes = \"32 megs\"\n\n[topics]\nbroker = \"kafka://broker\"\n\n[sever]\nlisten = \"127.0.0.1:1\"\n";
    looks_like("several_problems", Some(text), &["settings"], &[]);
}

#[test]
fn settings_that_are_not_toml() {
    looks_like("not_toml", Some("[project]\nname = shop\n"), &["settings"], &[]);
}

#[test]
fn a_secret_whose_variable_is_missing() {
    let text = "[warehouse]\nurl = \"postgres://ann@db/x\"\npassword = \"${env:NO_SUCH_PASSWORD}\"\n";
    looks_like("missing_variable", Some(text), &["settings"], &[]);
}

#[test]
fn a_secret_on_a_broken_line_is_not_shown() {
    looks_like("secret_not_shown", Some("[server]\ntoken = \"hunter2\n"), &["settings"], &[]);

    let shown = fs::read_to_string(Path::new(ROOT).join("tests/golden/errors/secret_not_shown.txt")).unwrap();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_environment_variable_with_one_underscore() {
    looks_like("one_underscore", Some(""), &["settings"], &[("TIDEMILL_LAKE_URL", "s3://bucket")]);
}

#[test]
fn a_flag_that_sets_what_is_not_there() {
    looks_like("unknown_flag_key", Some(""), &["--set", "engine.memory=1GB", "settings"], &[]);
}

#[test]
fn serving_the_world_without_a_token() {
    looks_like("open_server", Some("[server]\nlisten = \"0.0.0.0:8080\"\n"), &["settings"], &[]);
}

#[test]
fn a_folder_that_is_a_project_already() {
    looks_like("init_twice", Some(""), &["init", "."], &[]);
}

#[test]
fn a_code_nobody_knows() {
    looks_like("unknown_code", None, &["explain", "S9999"], &[]);
}

#[test]
fn a_health_check_with_no_server() {
    // Port 9 of loopback: nothing serves "discard" any more, and an address without a listener refuses at once.
    looks_like("no_server", Some("[server]\nlisten = \"127.0.0.1:9\"\n"), &["health"], &[]);
}

#[test]
fn a_wrong_use() {
    looks_like("wrong_use", None, &["dags", "rnu"], &[]);
}

#[test]
fn failures_as_json() {
    looks_like("as_json", Some("[lake]\nulr = \"x\"\n"), &["--json", "settings"], &[]);
}

#[test]
fn colours_only_where_somebody_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = tidemill(folder.path()).env_remove("NO_COLOR").arg("settings").output().unwrap();

    let (_, err) = texts(&output);
    assert!(err.starts_with("error[S0001]") && !err.contains('\x1b'), "{err}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let mut child =
        tidemill(folder.path()).arg("explain").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();

    assert_eq!((output.status.code(), texts(&output).1), (Some(0), String::new()));
}

#[test]
fn init_makes_a_project_that_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let made = tidemill(folder.path()).args(["init", "shop"]).output().unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", texts(&made).1);

    let output = tidemill(folder.path()).args(["-C", "shop/sql", "--json", "settings", "project"]).output().unwrap();

    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(rows[0]["key"], "project.name");
    for file in ["tidemill.toml", "docker-compose.yml", ".env.example", "minio/init.sh", "schemas/sign_in_topic.avsc"] {
        let (ours, theirs) = (Path::new(ROOT).join(file), folder.path().join("shop").join(file));
        assert_eq!(fs::read(ours).unwrap(), fs::read(theirs).unwrap(), "{file}");
    }
}
