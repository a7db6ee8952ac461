//! One file's template: `config`, `ref`, `source`, `var` as dbt has them.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

/// What a template said while it was rendered.
#[derive(Debug, Default, Clone)]
pub(super) struct Found {
    pub(super) config: BTreeMap<String, Value>,
    pub(super) refs: Vec<String>,
    pub(super) sources: Vec<(String, String)>,
}

/// Where a reference leads: the text to put into the SQL, or why it leads nowhere.
pub(super) type Resolve = dyn Fn(&str) -> Result<String, String> + Send + Sync;

/// Renders `text`; `resolve` gives the table behind `ref('name')`.
pub(super) fn render(
    file: &str,
    text: &str,
    vars: &serde_json::Map<String, serde_json::Value>,
    this: &str,
    resolve: &Arc<Resolve>,
) -> Result<(String, Found), Error> {
    let found = Arc::new(Mutex::new(Found::default()));
    let note = |found: &Arc<Mutex<Found>>, change: &dyn Fn(&mut Found)| {
        change(&mut found.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);

    let seen = Arc::clone(&found);
    environment.add_function("config", move |kwargs: Kwargs| -> Result<String, Error> {
        for key in kwargs.args() {
            let value: Value = kwargs.get(key)?;
            note(&seen, &|found| drop(found.config.insert(key.to_owned(), value.clone())));
        }
        Ok(String::new())
    });
    let (seen, lead) = (Arc::clone(&found), Arc::clone(resolve));
    environment.add_function("ref", move |names: Rest<String>| -> Result<String, Error> {
        // dbt: ref('model') or ref('package', 'model').
        let Some(name) = names.last().cloned() else {
            return Err(Error::new(ErrorKind::MissingArgument, "ref() needs the name of a model"));
        };
        note(&seen, &|found| found.refs.push(name.clone()));
        lead(&name).map_err(|why| Error::new(ErrorKind::InvalidOperation, why))
    });
    let seen = Arc::clone(&found);
    environment.add_function("source", move |schema: String, table: String| {
        note(&seen, &|found| found.sources.push((schema.clone(), table.clone())));
        format!("{}.{}", quote(&schema), quote(&table))
    });
    let known = vars.clone();
    environment.add_function("var", move |name: String, default: Option<Value>| -> Result<Value, Error> {
        match (known.get(&name), default) {
            (Some(value), _) => Ok(Value::from(minijinja::value::Serde(value))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::new(
                ErrorKind::UndefinedError,
                format!("the variable `{name}` is not set: give it a default, or set it under [vars] in tidemill.toml"),
            )),
        }
    });
    environment.add_function("is_incremental", || false);
    environment.add_global("this", this.to_owned());

    environment.add_template(file, text)?;
    let sql = environment.get_template(file)?.render(())?;
    let found = found.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((sql, found))
}

/// Quotes a name only where SQL needs it, so that the compiled text stays readable.
pub(super) fn quote(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
