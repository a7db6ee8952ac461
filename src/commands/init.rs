//! `tidemill init DIR`: writes the sample project, or that of another pipeline, for a person to change.
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Context, program};
use crate::embedded::{Files, PIPELINES, PROJECT};
use crate::failure::{Exit, Failure, Result};
use crate::settings::FILE;

/// What became of the files.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Written {
    /// How many were written.
    pub(crate) written: usize,
    /// Those that were there already, and were left as they are.
    pub(crate) kept: Vec<String>,
}

/// The sample project's own pipeline, beside those of `pipelines/`.
const SAMPLE: &str = "consumer_segmentation";

/// The files of the pipeline of that name.
fn files_of(name: &str) -> Result<Files> {
    if name == SAMPLE {
        return Ok(PROJECT);
    }
    let names: Vec<&str> = PIPELINES.iter().map(|(name, _)| *name).chain([SAMPLE]).collect();
    PIPELINES.iter().find(|(known, _)| *known == name).map(|(_, files)| *files).ok_or_else(|| {
        Failure::new("D0118", format!("there is no pipeline `{name}`"))
            .fix(format!("choose one of: {}", names.join(", ")))
            .exit(Exit::Usage)
    })
}

pub(super) fn run(context: &Context, dir: &Path, pipeline: &str) -> Result<Exit> {
    let files = files_of(pipeline)?;
    // Collected anew, so that `init .` is shown without the dot.
    let dir: PathBuf = crate::project::start(&context.global)?.join(dir).components().collect();
    if dir.join(FILE).exists() {
        return Err(Failure::new("S0020", format!("`{}` is a project already", dir.display()))
            .why(format!("it has a `{FILE}`"))
            .fix("choose another folder, or work in this one: nothing is ever overwritten"));
    }
    let written = write_files(&dir, files)?;
    if context.report.json() {
        context.report.one(&written)?;
    }
    for kept in &written.kept {
        context.report.note(format_args!("kept {kept}, which was there"));
    }
    context.report.note(format_args!("wrote {} files to {}", written.written, dir.display()));
    let (shown, program) = (dir.display(), program());
    context.report.note(format_args!("next: {program} -C {shown} up"));
    context.report.note("and while it runs, to give it something to do, one after the other:");
    if pipeline == SAMPLE {
        context.report.note(format_args!("  cp {shown}/data/Movies.txt {shown}/data/inbox/"));
        context.report.note(format_args!("  {program} -C {shown} dags trigger user_events"));
    } else {
        context.report.note(format_args!("  {program} -C {shown} dags list, and what {shown}/README.md says"));
    }
    Ok(Exit::Done)
}

/// Writes every file of the sample project that is not there yet. `tidemill.toml` comes last: it makes the folder a project.
///
/// # Errors
/// X0002 if something cannot be written.
pub(crate) fn write_project(dir: &Path) -> Result<Written> {
    write_files(dir, PROJECT)
}

fn write_files(dir: &Path, files: Files) -> Result<Written> {
    let mut result = Written::default();
    fs::create_dir_all(dir).map_err(|error| Failure::io(&error, "create", dir))?;
    // Empty, so no file of the project brings it: where new files are watched for.
    let inbox = dir.join("data/inbox");
    fs::create_dir_all(&inbox).map_err(|error| Failure::io(&error, "create", &inbox))?;
    let (settings, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == FILE);
    for (name, content) in others.into_iter().chain(settings) {
        let path = dir.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Failure::io(&error, "create", folder))?;
        }
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(content).map_err(|error| Failure::io(&error, "write", &path))?;
                executable(&file, content).map_err(|error| Failure::io(&error, "make executable", &path))?;
                result.written += 1;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => result.kept.push((*name).to_owned()),
            Err(error) => return Err(Failure::io(&error, "create", &path)),
        }
    }
    Ok(result)
}

/// Scripts can be run as they were.
#[cfg(unix)]
fn executable(file: &fs::File, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if content.starts_with(b"#!") { file.set_permissions(fs::Permissions::from_mode(0o755)) } else { Ok(()) }
}

#[cfg(not(unix))]
fn executable(_: &fs::File, _: &[u8]) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_a_second_time_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data")).unwrap();
        fs::write(folder.path().join(FILE), "mine").unwrap();

        let first = write_project(folder.path()).unwrap();
        let second = write_project(folder.path()).unwrap();

        assert_eq!(first.kept, [FILE]);
        assert_eq!(first.written, PROJECT.len() - 1);
        assert_eq!((second.written, second.kept.len()), (0, PROJECT.len()));
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), "mine");
    }
}
