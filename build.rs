//! Embeds the sample project and the pages about error codes, so that `tidemill init` and `tidemill explain` need no files.
//!
//! The repository's own folders are read, so the two cannot differ. A macro crate would do the same but for two things:
//! it refuses folders that are not there, and on stable Rust it does not notice new files.
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What a project is made of, as in the README.
const PROJECT: &[&str] = &[
    "dags",
    "sql",
    "schemas",
    "data",
    "minio",
    "tidemill.toml",
    "tidemill.compose.toml",
    "docker-compose.yml",
    ".env.example",
];

/// 4 MiB: samples are small; a large file in `data/` is somebody's own and does not belong in the binary.
const MAX_FILE: u64 = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut files = Vec::new();
    for name in PROJECT {
        collect(&root, Path::new(name), &mut files)?;
    }
    let mut code = String::from(
        "/// The files of a project: paths with `/` and contents.\npub(crate) type Files = &'static [(&'static str, &'static [u8])];\n\n/// The sample project.\npub(crate) const PROJECT: Files = &[\n",
    );
    for file in &files {
        writeln!(code, "    ({:?}, include_bytes!({:?})),", slashes(file), slashes(&root.join(file)))?;
    }
    code.push_str("];\n\n/// The other pipelines: name, and paths with `/` and contents.\npub(crate) const PIPELINES: &[(&str, Files)] = &[\n");
    let folder = root.join("pipelines");
    println!("cargo::rerun-if-changed=pipelines");
    let mut names: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let (mut files, inside) = (Vec::new(), folder.join(&name));
        collect(&inside, Path::new(""), &mut files)?;
        writeln!(code, "    ({name:?}, &[")?;
        for file in &files {
            writeln!(code, "        ({:?}, include_bytes!({:?})),", slashes(file), slashes(&inside.join(file)))?;
        }
        code.push_str("    ]),\n");
    }
    code.push_str("];\n\n/// The pages about error codes: code and Markdown, by code.\npub(crate) const ERRORS: &[(&str, &str)] = &[\n");
    let mut pages = Vec::new();
    collect(&root, Path::new("docs/errors"), &mut pages)?;
    for page in &pages {
        if let (Some(stem), Some("md")) = (page.file_stem(), page.extension().and_then(|name| name.to_str())) {
            writeln!(code, "    ({:?}, include_str!({:?})),", stem.to_string_lossy(), slashes(&root.join(page)))?;
        }
    }
    code.push_str("];\n");
    fs::write(out.join("embedded.rs"), code)?;
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}

/// Adds a file, or all files under a folder in name order. What is not there is left out.
fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let Ok(found) = fs::metadata(root.join(path)) else { return Ok(()) };
    println!("cargo::rerun-if-changed={}", root.join(path).display());
    if found.is_file() {
        if found.len() <= MAX_FILE {
            files.push(path.to_path_buf());
        } else {
            println!("cargo::warning={} is larger than 4 MiB and is not embedded", path.display());
        }
        return Ok(());
    }
    let mut names: Vec<_> =
        fs::read_dir(root.join(path))?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        collect(root, &path.join(name), files)?;
    }
    Ok(())
}

fn slashes(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}
