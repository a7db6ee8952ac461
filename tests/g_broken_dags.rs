//! DAG files with mistakes: all of them are shown at once, each with its file, line and mark; the others still run.
use super::project::Project;

/// What `dags list` says about a file with these lines.
fn told(project: &Project, file: &str, text: &str) -> String {
    project.write(&format!("dags/{file}"), text);
    project.fails(3, &["dags", "list"])
}

#[test]
fn every_mistake_is_shown_at_once_with_its_place() {
    let project = Project::new();
    project.write(
        "dags/one.toml",
        "[[triggers]]\nkind = \"cron\"\ncron = \"61 * * * *\"\n\n[tasks.a]\nkind = \"ingset\"\n\n\
         [tasks.b]\nkind = \"models\"\nafter = [\"c\", \"nobody\"]\n\n[tasks.c]\nkind = \"models\"\nafter = [\"b\"]\nselekt = [\"x\"]\n",
    );

    let err = told(&project, "two.toml", "[tasks.a]\nkind = \"check\"\n\n[tasks.a]\nkind = \"check\"\n");

    for place in [
        "dags/one.toml:3:",  // the cron expression
        "dags/one.toml:6:",  // the kind
        "dags/one.toml:10:", // the reference
        "dags/one.toml:15:", // the key
        "dags/two.toml:4:",  // the same task again
    ] {
        assert!(err.contains(place), "no {place} in\n{err}");
    }
    assert!(err.contains("b after c after b"), "{err}");
    for guess in ["`ingest`", "`select`"] {
        assert!(err.contains(guess), "no hint at {guess} in\n{err}");
    }
    assert!(
        err.matches("error[D").count() == 6 && err.matches(" ^").count() == 6 && err.ends_with("6 problems\n"),
        "{err}"
    );
}

#[test]
fn one_broken_file_leaves_the_others_running() {
    let project = Project::new();
    project.write("dags/broken.toml", "[tasks.a]\nkind = \"nothing\"\n");

    let ran = project.run(&["dags", "run", "movies_catalog", "--param", "file=data/Movies.txt"]);

    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning[D") && ran.err.contains("dags/broken.toml:2"), "{}", ran.err);
    project.fails(3, &["dags", "run", "broken"]);
}

#[test]
fn a_dag_nobody_wrote_and_a_param_nobody_knows() {
    let project = Project::new();

    let dag = project.fails(2, &["dags", "run", "movie_catalog"]);
    let param = project.fails(2, &["dags", "run", "movies_catalog", "--param", "fiel=x"]);

    assert!(dag.contains("movies_catalog"), "{dag}");
    assert!(param.contains("`file`"), "{param}");
}
