//! The two libraries do not know each other: the orchestrator has never heard of tables and queries, `etl` never of DAGs.
//! Only `src/` knows both. Cargo says who depends on whom.
use std::process::Command;

use super::ROOT;

/// All packages that a package is built from, by name.
fn tree(package: &str) -> Vec<String> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--locked",
            "--all-features",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "-p",
            package,
        ])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect()
}

#[test]
fn the_orchestrator_has_no_notion_of_data() {
    let packages = tree("tidemill-orchestrator");

    assert!(packages.iter().any(|name| name == "croner"), "the tree is its own: {packages:?}");
    for name in packages {
        let data = [
            "arrow",
            "datafusion",
            "parquet",
            "deltalake",
            "delta_kernel",
            "object_store",
            "rdkafka",
            "polars",
            "apache-avro",
            "tidemill-etl",
        ];
        assert!(!data.iter().any(|data| name.starts_with(data)), "the orchestrator depends on `{name}`");
    }
}

#[test]
fn etl_has_no_notion_of_schedules() {
    let packages = tree("tidemill-etl");

    assert!(packages.iter().any(|name| name == "datafusion"), "the tree is its own");
    for name in ["tidemill-orchestrator", "tidemill", "croner", "toml-span"] {
        assert!(!packages.iter().any(|package| package == name), "etl depends on `{name}`");
    }
}
