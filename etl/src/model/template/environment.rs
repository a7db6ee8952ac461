//! What a template may say: `config`, `ref`, `source`, `var`, macros, and what dbt has besides.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};

use super::caller;
use super::python;
use crate::table::TableName;

/// Macros that call macros, at most so deep: each level has a renderer of its own on the stack.
const MAX_DEPTH: usize = 40;

/// What a template said while it was rendered.
#[derive(Debug, Default, Clone)]
pub(crate) struct Found {
    pub(crate) config: BTreeMap<String, Value>,
    pub(crate) refs: Vec<String>,
    pub(crate) sources: Vec<(String, String)>,
    /// What `log` and `exceptions.warn` said.
    pub(crate) notes: Vec<String>,
}

/// Where references lead.
pub(crate) trait Resolve: Send + Sync {
    /// The table behind `ref(name)`, or why there is none.
    fn reference(&self, name: &str) -> Result<TableName, String>;
    /// The table behind `source(schema, table)`, or why there is none.
    fn source(&self, schema: &str, table: &str) -> Result<TableName, String>;
}

/// What is the same for all templates of a project.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// The project's name, under which its macros can be called too.
    pub(crate) project: String,
    /// The schema of what names none.
    pub(crate) schema: String,
    pub(crate) vars: serde_json::Map<String, serde_json::Value>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Texts of `{% docs %}` blocks.
    pub(crate) docs: BTreeMap<String, String>,
}

/// What one rendering is about.
#[derive(Clone)]
pub(crate) struct Here {
    /// The model's name.
    pub(crate) name: String,
    /// Where it is kept.
    pub(crate) this: TableName,
    /// What is configured for it outside its file.
    pub(crate) config: BTreeMap<String, Value>,
    /// Where references lead.
    pub(crate) resolve: Arc<dyn Resolve>,
}

#[derive(Default)]
struct Current {
    here: Option<Here>,
    found: Found,
    returned: Option<Value>,
    depth: usize,
}

type Shared = Arc<Mutex<Current>>;

fn with<T>(shared: &Shared, change: impl FnOnce(&mut Current) -> T) -> T {
    change(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// The renderer of a project.
pub(crate) struct Templates {
    environment: Environment<'static>,
    current: Shared,
    surroundings: Arc<Surroundings>,
}

impl Templates {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        let current = Shared::default();
        let surroundings = Arc::new(surroundings);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_debug(true);
        environment.set_unknown_method_callback(python::call);
        references(&mut environment, &current);
        settings(&mut environment, &current, &surroundings);
        reporting(&mut environment, &current);
        plain(&mut environment);
        Self { environment, current, surroundings }
    }

    /// Adds a file of macros under the name `file`; each becomes a function.
    pub(crate) fn add_macros(&mut self, file: &str, text: &str) -> Result<(), Error> {
        self.environment.add_template_owned(file.to_owned(), text.to_owned())?;
        let file: Arc<str> = file.into();
        for (name, _) in super::macros(text) {
            let (template, current) = (Arc::clone(&file), Arc::clone(&self.current));
            let shared = Macro { template, name: name.clone(), current };
            self.environment.add_global(name, Value::from_object(shared));
        }
        Ok(())
    }

    /// To be called once all macros are there: they can be called as `project.name(…)` too.
    pub(crate) fn finish(&mut self) {
        let macros: BTreeMap<String, Value> = self
            .environment
            .globals()
            .filter(|(_, value)| value.downcast_object_ref::<Macro>().is_some())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if !self.surroundings.project.is_empty() {
            self.environment.add_global(self.surroundings.project.clone(), Value::from_object(Namespace(macros)));
        }
    }

    /// Whether there is a macro of this name.
    pub(crate) fn has_macro(&self, name: &str) -> bool {
        self.environment.globals().any(|(known, value)| known == name && value.downcast_object_ref::<Macro>().is_some())
    }

    /// All names that a template can use.
    pub(crate) fn names(&self) -> Vec<String> {
        self.environment.globals().map(|(name, _)| name.to_owned()).collect()
    }

    /// Renders `text`, which errors call `file`.
    pub(crate) fn render(&self, file: &str, text: &str, here: Here) -> Result<(String, Found), Error> {
        self.during(here, || self.environment.render_named_str(file, text, ()))
    }

    /// Calls a macro with `args`.
    pub(crate) fn call(&self, name: &str, args: &[Value], here: Here) -> Result<(String, Found), Error> {
        self.during(here, || {
            let mut state = self.environment.empty_state();
            let found = state.lookup(name).ok_or_else(|| Error::new(ErrorKind::UnknownFunction, name.to_owned()))?;
            found.call(&mut state, args).map(|value| value.to_string())
        })
    }

    fn during(&self, here: Here, render: impl FnOnce() -> Result<String, Error>) -> Result<(String, Found), Error> {
        with(&self.current, |current| *current = Current { here: Some(here), ..Current::default() });
        let rendered = render();
        let found = with(&self.current, |current| std::mem::take(current).found);
        rendered.map(|text| (text, found))
    }
}

/// A macro of a macro file. Each call renders that file anew, so that macros may call each other across files.
#[derive(Debug)]
struct Macro {
    template: Arc<str>,
    name: String,
    current: Shared,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Object for Macro {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let depth = with(&self.current, |current| {
            current.depth += 1;
            current.depth
        });
        if depth > MAX_DEPTH {
            return Err(refuse(format!("macros call each other more than {MAX_DEPTH} deep, at last `{}`", self.name)));
        }
        // What stands between `{% call %}` and `{% endcall %}` belongs to `state`, and the macro runs in another.
        let environment = state.env();
        let called = caller::lend(state, args, |args| {
            environment.get_template(&self.template)?.render_captured(()).and_then(|mut file| {
                file.with_state_mut(|state| match state.lookup(&self.name) {
                    Some(found) => found.call(state, args),
                    None => Err(Error::new(ErrorKind::UnknownFunction, self.name.clone())),
                })
            })
        });
        with(&self.current, |current| {
            current.depth -= 1;
            match (called, current.returned.take()) {
                (Err(_), Some(value)) => Ok(value),
                (called, _) => called,
            }
        })
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<macro {}>", self.name)
    }
}

/// The project's macros by its name.
#[derive(Debug)]
struct Namespace(BTreeMap<String, Value>);

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).cloned()
    }
}

/// A table, as text `schema.table`.
#[derive(Debug)]
struct Relation(TableName);

impl Object for Relation {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "schema" => Some(self.0.schema.clone().into()),
            "identifier" | "name" | "table" | "alias" => Some(self.0.table.clone().into()),
            "database" => Some("".into()),
            _ => None,
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", quote(&self.0.schema), quote(&self.0.table))
    }
}

/// `{{ this }}`: the table of whatever is being rendered.
#[derive(Debug)]
struct This(Shared);

impl This {
    fn relation(&self) -> Arc<Relation> {
        let this = with(&self.0, |current| current.here.as_ref().map(|here| here.this.clone()));
        Arc::new(Relation(this.unwrap_or_else(|| TableName::new("", ""))))
    }
}

impl Object for This {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.relation().get_value(key)
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.relation().render(f)
    }
}

/// `config(…)`, `config.get(key)`, `config.require(key)`.
#[derive(Debug)]
struct Config(Shared);

impl Object for Config {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
        let set = |key: &str, value: Value| {
            // dbt writes `+tags` in folders and `tags` in files; both mean the same.
            let key = key.trim_start_matches('+').to_owned();
            with(&self.0, |current| current.found.config.insert(key, value));
        };
        for dict in given.iter() {
            if dict.kind() != ValueKind::Map {
                return Err(refuse("config() takes `key=value`, or a dictionary"));
            }
            for key in dict.try_iter()? {
                set(&key.to_string(), dict.get_item(&key)?);
            }
        }
        for key in named.args() {
            set(key, named.get(key)?);
        }
        Ok(Value::from(""))
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let known = |key: &str| {
            with(&self.0, |current| {
                let outside = || current.here.as_ref().and_then(|here| here.config.get(key));
                current.found.config.get(key).or_else(outside).cloned()
            })
        };
        match method {
            "get" => {
                let (key, default, _validator): (String, Option<Value>, Option<Value>) = from_args(args)?;
                Ok(known(&key).or(default).unwrap_or_else(|| Value::from(())))
            }
            "require" => {
                let (key,): (String,) = from_args(args)?;
                known(&key).ok_or_else(|| refuse(format!("the configuration has no `{key}`")))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Something of dbt's that would need a connection while text is made, or a package.
#[derive(Debug)]
struct Absent {
    name: &'static str,
    why: &'static str,
}

impl Object for Absent {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, _args: &[Value]) -> Result<Value, Error> {
        Err(refuse(format!("`{}()` is not supported: {}", self.name, self.why)))
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, _: &[Value]) -> Result<Value, Error> {
        Err(refuse(format!("`{}.{method}()` is not supported: {}", self.name, self.why)))
    }
}

const ABSENT: &[Absent] = &[
    Absent { name: "adapter", why: "SQL is made from the files alone, without asking a database" },
    Absent { name: "run_query", why: "SQL is made from the files alone, without asking a database" },
    Absent { name: "statement", why: "SQL is made from the files alone, without asking a database" },
    Absent { name: "load_result", why: "SQL is made from the files alone, without asking a database" },
    Absent { name: "modules", why: "what it gives differs from run to run, and models would be rebuilt each time" },
];

fn references(environment: &mut Environment<'static>, current: &Shared) {
    let shared = Arc::clone(current);
    environment.add_function("ref", move |names: Rest<Value>, named: Kwargs| -> Result<Value, Error> {
        if named.args().next().is_some() {
            return Err(refuse("ref() takes the name of a model; versions of a model are not supported"));
        }
        // dbt: ref('model') or ref('package', 'model').
        let Some(name) = names.last().and_then(Value::as_str) else {
            return Err(Error::new(ErrorKind::MissingArgument, "ref() needs the name of a model"));
        };
        let resolve = with(&shared, |current| {
            current.found.refs.push(name.to_owned());
            current.here.as_ref().map(|here| Arc::clone(&here.resolve))
        });
        let Some(resolve) = resolve else { return Err(refuse("ref() cannot be used here")) };
        resolve.reference(name).map(|table| Value::from_object(Relation(table))).map_err(refuse)
    });
    let shared = Arc::clone(current);
    environment.add_function("source", move |schema: String, table: String| -> Result<Value, Error> {
        let resolve = with(&shared, |current| {
            current.found.sources.push((schema.clone(), table.clone()));
            current.here.as_ref().map(|here| Arc::clone(&here.resolve))
        });
        let Some(resolve) = resolve else { return Err(refuse("source() cannot be used here")) };
        resolve.source(&schema, &table).map(|table| Value::from_object(Relation(table))).map_err(refuse)
    });
    environment.add_global("this", Value::from_object(This(Arc::clone(current))));
    environment.add_global("config", Value::from_object(Config(Arc::clone(current))));
}

fn settings(environment: &mut Environment<'static>, current: &Shared, surroundings: &Arc<Surroundings>) {
    let known = Arc::clone(surroundings);
    environment.add_function("var", move |name: String, default: Option<Value>| -> Result<Value, Error> {
        match (known.vars.get(&name), default) {
            (Some(value), _) => Ok(Value::from(minijinja::value::Serde(value))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::new(
                ErrorKind::UndefinedError,
                format!("the variable `{name}` is not set: give it a default, or set it under [vars] in tidemill.toml (vars: in dbt_project.yml)"),
            )),
        }
    });
    let known = Arc::clone(surroundings);
    environment.add_function("env_var", move |name: String, default: Option<Value>| -> Result<Value, Error> {
        match (known.environment.get(&name), default) {
            (Some(value), _) => Ok(Value::from(value.as_str())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::new(
                ErrorKind::UndefinedError,
                format!("the environment has no `{name}`: set it, or give env_var() a default"),
            )),
        }
    });
    let known = Arc::clone(surroundings);
    environment.add_function("doc", move |names: Rest<String>| -> Result<String, Error> {
        let name = names.last().cloned().unwrap_or_default();
        known.docs.get(&name).cloned().ok_or_else(|| refuse(format!("there is no `{{% docs {name} %}}`")))
    });
    // A model is written as for a batch: what has changed is found from the plan, so no text ever needs this branch.
    environment.add_function("is_incremental", || false);
    environment.add_global("execute", true);
    let target = [
        ("name", "tidemill"),
        ("profile_name", surroundings.project.as_str()),
        ("schema", surroundings.schema.as_str()),
        ("type", "tidemill"),
        ("database", ""),
    ];
    environment.add_global("target", Value::from_pairs(target));
    environment.add_global("project_name", surroundings.project.clone());
    let shared = Arc::clone(current);
    environment.add_global("model", Value::from_object(ThisModel(shared)));
}

/// `model.name`, `model.alias`, `model.schema`.
#[derive(Debug)]
struct ThisModel(Shared);

impl Object for ThisModel {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        with(&self.0, |current| {
            let here = current.here.as_ref()?;
            match key.as_str()? {
                "name" => Some(here.name.clone().into()),
                "alias" => Some(here.this.table.clone().into()),
                "schema" => Some(here.this.schema.clone().into()),
                _ => None,
            }
        })
    }
}

fn reporting(environment: &mut Environment<'static>, current: &Shared) {
    let shared = Arc::clone(current);
    environment.add_function("log", move |text: Value, options: Kwargs| -> Result<String, Error> {
        let _info: Option<bool> = options.get("info")?;
        options.assert_all_used()?;
        with(&shared, |current| current.found.notes.push(text.to_string()));
        Ok(String::new())
    });
    let shared = Arc::clone(current);
    environment.add_function("print", move |text: Value| {
        with(&shared, |current| current.found.notes.push(text.to_string()));
        String::new()
    });
    let shared = Arc::clone(current);
    environment.add_function("return", move |value: Value| -> Result<Value, Error> {
        with(&shared, |current| current.returned = Some(value));
        Err(refuse("return() works in macros that are in a folder of macros"))
    });
    environment.add_global("exceptions", Value::from_object(Exceptions(Arc::clone(current))));
    for absent in ABSENT {
        environment.add_global(absent.name, Value::from_object(Absent { name: absent.name, why: absent.why }));
    }
}

/// `exceptions.raise_compiler_error(text)` and `exceptions.warn(text)`.
#[derive(Debug)]
struct Exceptions(Shared);

impl Object for Exceptions {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let (text,): (Value,) = from_args(args)?;
        match method {
            "raise_compiler_error" => Err(refuse(text.to_string())),
            "warn" => {
                with(&self.0, |current| current.found.notes.push(text.to_string()));
                Ok(Value::from(""))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Functions and filters that depend on nothing.
fn plain(environment: &mut Environment<'static>) {
    environment.add_function("own", python::own);
    environment.add_function("zip", |lists: Rest<Value>| -> Result<Value, Error> {
        let lists = lists.iter().map(|list| Ok(list.try_iter()?.collect::<Vec<_>>()));
        let lists = lists.collect::<Result<Vec<_>, Error>>()?;
        let shortest = lists.iter().map(Vec::len).min().unwrap_or(0);
        let row = |at: usize| lists.iter().filter_map(|list| list.get(at).cloned()).collect::<Value>();
        Ok((0..shortest).map(row).collect())
    });
    environment.add_function("set", |items: Value| -> Result<Value, Error> {
        let mut seen: Vec<Value> = Vec::new();
        for item in items.try_iter()? {
            if !seen.contains(&item) {
                seen.push(item);
            }
        }
        Ok(Value::from_iter(seen))
    });
    environment.add_function("tojson", |value: Value| -> Result<String, Error> {
        serde_json::to_string(&value).map_err(|e| refuse(e.to_string()))
    });
    environment.add_function("fromjson", |text: String| -> Result<Value, Error> {
        let parsed: serde_json::Value = serde_json::from_str(&text).map_err(|e| refuse(format!("no JSON: {e}")))?;
        Ok(Value::from(minijinja::value::Serde(&parsed)))
    });
    for filter in ["as_text", "as_native", "as_bool", "as_number"] {
        environment.add_filter(filter, |value: Value| value);
    }
    environment.add_global("dbt", Value::from_object(CrossDatabase));
}

/// dbt's macros for what databases spell differently: `dbt.type_string()`, `dbt.datediff(…)` and their like.
#[derive(Debug)]
struct CrossDatabase;

impl Object for CrossDatabase {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let two = || from_args::<(Value, Value)>(args);
        let text = match method {
            "type_string" => "varchar".to_owned(),
            "type_timestamp" => "timestamp".to_owned(),
            "type_int" => "integer".to_owned(),
            "type_bigint" => "bigint".to_owned(),
            "type_float" => "double".to_owned(),
            "type_numeric" => "decimal(28, 6)".to_owned(),
            "type_boolean" => "boolean".to_owned(),
            "date_trunc" => two().map(|(part, date)| format!("date_trunc('{part}', {date})"))?,
            "safe_cast" => two().map(|(field, kind)| format!("try_cast({field} as {kind})"))?,
            "hash" => from_args::<(Value,)>(args).map(|(field,)| format!("md5(cast({field} as varchar))"))?,
            "length" => from_args::<(Value,)>(args).map(|(field,)| format!("length({field})"))?,
            "string_literal" => {
                let (text,): (String,) = from_args(args)?;
                format!("'{}'", text.replace('\'', "''"))
            }
            "concat" => {
                let (fields,): (Value,) = from_args(args)?;
                let fields: Vec<String> = fields.try_iter()?.map(|field| field.to_string()).collect();
                format!("({})", fields.join(" || "))
            }
            _ => return Err(refuse(format!("`dbt.{method}()` is not supported: write it in SQL"))),
        };
        Ok(Value::from(text))
    }
}

/// Quotes a name only where SQL needs it, so that the compiled text stays readable.
pub(crate) fn quote(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
