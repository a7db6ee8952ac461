//! `docker-compose.yml` fits the settings it goes with, and keeps the rules that need no container to check: every image
//! pinned, every service watched, no port beyond this machine, no password but from `.env`.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::{ROOT, texts, tidemill};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap()
}

fn compose() -> Value {
    serde_saphyr::from_str(&read("docker-compose.yml")).unwrap()
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// The names in `${NAME…}`, where `$$` is a plain dollar sign.
fn variables(text: &str) -> BTreeSet<String> {
    let text = text.replace("$$", "");
    text.split("${")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

/// The variables of `.env.example`.
fn examples() -> BTreeSet<String> {
    let text = read(".env.example");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .collect()
}

#[test]
fn every_image_is_pinned_and_every_service_watched() {
    let compose = compose();
    for (name, service) in services(&compose) {
        let image = service["image"].as_str().unwrap();
        let tag = image.rsplit_once(':').map(|(_, tag)| tag).unwrap_or_default();
        assert!(tag.chars().any(|c| c.is_ascii_digit()) && !tag.contains("latest"), "{name}: `{image}` is not pinned");
        let once = service["labels"]["tidemill.oneshot"] == "true";
        assert!(once || service["healthcheck"]["test"].is_array(), "{name} has no health check");
    }
}

#[test]
fn no_port_is_open_beyond_this_machine() {
    let compose = compose();
    let ports = services(&compose).iter().flat_map(|(name, service)| {
        service["ports"].as_array().into_iter().flatten().map(move |port| (name, port.as_str().unwrap()))
    });
    let ports: Vec<_> = ports.collect();

    assert!(ports.len() > 5, "{ports:?}");
    for (name, port) in ports {
        assert!(port.starts_with("127.0.0.1:"), "{name} opens {port}");
    }
}

#[test]
fn passwords_come_from_the_environment_and_must_be_there() {
    let compose = compose();
    let mut seen = 0;
    for (name, service) in services(&compose) {
        for (key, value) in service["environment"].as_object().into_iter().flatten() {
            if ["PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "AUTH"].iter().any(|word| key.contains(word)) {
                let value = value.as_str().unwrap();
                assert!(value.starts_with("${") && value.contains(":?"), "{name}: {key} is `{value}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "{seen} secrets");
}

#[test]
fn the_example_environment_has_exactly_what_is_asked_for() {
    let asked = variables(&read("docker-compose.yml"));

    assert_eq!(asked, examples());
    for name in variables(&read("tidemill.compose.toml").replace("${env:", "${")) {
        assert!(asked.contains(&name), "tidemill.compose.toml asks for {name}, which its container does not get");
    }
}

#[test]
fn the_settings_are_valid_and_name_services_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tidemill.toml"), read("tidemill.compose.toml")).unwrap();

    let output = tidemill(folder.path())
        .args(["--json", "settings"])
        .envs(examples().into_iter().map(|name| (name, "hunter2")))
        .output()
        .unwrap();

    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(!out.contains("hunter2"), "secrets are not shown");
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    let value =
        |key: &str| rows.iter().find(|row| row["key"] == key).and_then(|row| row["value"].as_str()).unwrap().to_owned();
    let compose = compose();
    for key in ["topics.broker", "schemas.registry", "lake.s3.endpoint", "warehouse.url"] {
        let url: url::Url = value(key).parse().unwrap();
        let host = url.host_str().unwrap();
        let waits_for = &compose["services"]["tidemill"]["depends_on"];
        assert!(services(&compose).contains_key(host), "{key}: no service `{host}`");
        assert!(waits_for[host].is_object(), "{key}: tidemill does not wait for `{host}`");
    }
    let token = rows.iter().find(|row| row["key"] == "server.token").unwrap();
    assert_eq!(token["value"], "•••", "{token}");
}
