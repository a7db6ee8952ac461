//! A project: the folder with `tidemill.toml` or `dbt_project.yml`, found from where one stands upwards, and its settings.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_etl::model::DBT_PROJECT;

use crate::cli::Global;
use crate::failure::{Failure, Result};
use crate::settings::{Environment, FILE, Inputs, Settings};

/// A project that was found and whose settings are valid.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// Its folder, absolute.
    pub(crate) root: PathBuf,
    /// Its settings.
    pub(crate) settings: Settings,
    /// The environment, for `env_var` in models.
    pub(crate) environment: Arc<Environment>,
}

impl Project {
    /// Finds the project from `-C DIR` or the working folder upwards, and reads its settings.
    ///
    /// # Errors
    /// S0001 if there is none; every problem of its settings.
    pub(crate) fn open(global: &Global, environment: &Environment) -> Result<Self> {
        Self::at(find(&start(global)?)?, &global.set, environment)
    }

    /// Reads the settings of the project in exactly this folder.
    ///
    /// # Errors
    /// Every problem of its settings.
    pub(crate) fn at(root: PathBuf, flags: &[String], environment: &Environment) -> Result<Self> {
        let settings = Settings::load(&Inputs { root: &root, environment, flags })?;
        Ok(Self { root, settings, environment: Arc::new(environment.clone()) })
    }

    /// A path as a person wants to see it: without the project's folder.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// A file or folder in the state folder, which is created if it is not there.
    ///
    /// # Errors
    /// X0002 if it cannot be created.
    pub(crate) fn state(&self, name: &str) -> Result<PathBuf> {
        let state = &self.settings.paths.state;
        std::fs::create_dir_all(state).map_err(|error| Failure::io(&error, "create", state))?;
        Ok(state.join(name))
    }
}

/// Where to look first: `-C DIR`, else the working folder; absolute.
///
/// # Errors
/// X0002 if there is no such folder.
pub(crate) fn start(global: &Global) -> Result<PathBuf> {
    let from = global.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    from.canonicalize().map_err(|error| Failure::io(&error, "work in", &from).fix("`-C` takes a folder that is there"))
}

/// The nearest folder upwards with `tidemill.toml` or `dbt_project.yml`.
fn find(from: &Path) -> Result<PathBuf> {
    let project = |folder: &&Path| folder.join(FILE).is_file() || folder.join(DBT_PROJECT).is_file();
    from.ancestors().find(project).map(Path::to_path_buf).ok_or_else(|| {
        Failure::new("S0001", format!("there is no project in `{}`", from.display()))
            .why(format!("neither it nor any folder above it has a `{FILE}` or a `{DBT_PROJECT}`"))
            .fix("make one with `tidemill init DIR`, or name its folder with `-C DIR`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_found_from_within() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let inner = root.join("sql/marts");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(root.join(FILE), "[project]\nname = \"shop\"\n").unwrap();
        let global = Global { directory: Some(inner), ..Global::default() };

        let project = Project::open(&global, &Environment::default()).unwrap();

        assert_eq!(project.root, root);
        assert_eq!(project.settings.name, "shop");
        assert_eq!(project.shown(&root.join("dags/a.toml")).to_string(), "dags/a.toml");
    }
}
