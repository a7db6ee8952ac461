//! Methods that templates call on text, lists and dictionaries because Jinja in Python has them.
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// A list or dictionary that the template changes.
#[derive(Debug)]
pub(super) struct Own(Mutex<Content>);

#[derive(Debug, Clone)]
enum Content {
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

/// `value` so that it can be changed, if it is a list or a dictionary; anything else, and what can be changed already,
/// as it is.
pub(super) fn own(value: Value) -> Value {
    let Some(object) = value.as_object() else { return value };
    if object.downcast_ref::<Own>().is_some() || object.type_name().contains("Namespace") {
        return value;
    }
    let content = match value.kind() {
        ValueKind::Seq => Content::List(value.try_iter().map(Iterator::collect).unwrap_or_default()),
        ValueKind::Map => Content::Dict(pairs(&value)),
        _ => return value,
    };
    Value::from_object(Own(Mutex::new(content)))
}

fn pairs(value: &Value) -> Vec<(Value, Value)> {
    let keys = value.try_iter().into_iter().flatten();
    keys.map(|key| (key.clone(), value.get_item(&key).unwrap_or_default())).collect()
}

impl Own {
    fn with<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for Own {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.with(|content| match content {
            Content::List(_) => ObjectRepr::Seq,
            Content::Dict(_) => ObjectRepr::Map,
        })
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.with(|content| match content {
            Content::List(items) => items.get(key.as_usize()?).cloned(),
            Content::Dict(pairs) => pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()),
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.with(|content| match content {
            Content::List(items) => Enumerator::Seq(items.len()),
            Content::Dict(pairs) => Enumerator::Values(pairs.iter().map(|(key, _)| key.clone()).collect()),
        })
    }

    fn call_method(self: &Arc<Self>, state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let changed = self.with(|content| match content {
            Content::List(items) => change_list(items, method, args),
            Content::Dict(pairs) => change_dict(pairs, method, args),
        })?;
        changed.map_or_else(|| call(state, &Value::from_dyn_object(Arc::clone(self)), method, args), Ok)
    }
}

fn change_list(items: &mut Vec<Value>, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "append" => {
            let (item,): (Value,) = from_args(args)?;
            items.push(item);
        }
        "extend" => {
            let (more,): (Value,) = from_args(args)?;
            items.extend(more.try_iter()?);
        }
        "insert" => {
            let (at, item): (usize, Value) = from_args(args)?;
            items.insert(at.min(items.len()), item);
        }
        "pop" => {
            let (at,): (Option<usize>,) = from_args(args)?;
            let at = at.unwrap_or(items.len().saturating_sub(1));
            if at >= items.len() {
                return Err(Error::new(ErrorKind::InvalidOperation, "pop from a list that has no such item"));
            }
            return Ok(Some(items.remove(at)));
        }
        "remove" => {
            let (item,): (Value,) = from_args(args)?;
            match items.iter().position(|known| *known == item) {
                Some(at) => drop(items.remove(at)),
                None => return Err(Error::new(ErrorKind::InvalidOperation, format!("the list has no `{item}`"))),
            }
        }
        "reverse" => items.reverse(),
        "sort" => items.sort(),
        "clear" => items.clear(),
        _ => return Ok(None),
    }
    Ok(Some(Value::from(())))
}

fn change_dict(pairs: &mut Vec<(Value, Value)>, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let mut set = |key: Value, value: Value| match pairs.iter_mut().find(|(known, _)| *known == key) {
        Some((_, old)) => *old = value,
        None => pairs.push((key, value)),
    };
    match method {
        "update" => {
            let (more,): (Value,) = from_args(args)?;
            for (key, value) in self::pairs(&more) {
                set(key, value);
            }
        }
        "setdefault" => {
            let (key, value): (Value, Option<Value>) = from_args(args)?;
            if let Some((_, old)) = pairs.iter().find(|(known, _)| *known == key) {
                return Ok(Some(old.clone()));
            }
            let value = value.unwrap_or_else(|| Value::from(()));
            pairs.push((key, value.clone()));
            return Ok(Some(value));
        }
        "pop" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            return match (pairs.iter().position(|(known, _)| *known == key), default) {
                (Some(at), _) => Ok(Some(pairs.remove(at).1)),
                (None, Some(default)) => Ok(Some(default)),
                (None, None) => Err(Error::new(ErrorKind::InvalidOperation, format!("the dictionary has no `{key}`"))),
            };
        }
        "clear" => pairs.clear(),
        _ => return Ok(None),
    }
    Ok(Some(Value::from(())))
}

/// A method of Python's on a value that does not know it.
pub(super) fn call(_state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => text(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => dict(value, method, args),
        ValueKind::Seq | ValueKind::Iterable => list(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn text(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let chars = |args| -> Result<Vec<char>, Error> {
        let (chars,): (Option<String>,) = from_args(args)?;
        Ok(chars.map_or_else(|| vec![' ', '\t', '\n', '\r', '\u{c}', '\u{b}'], |chars| chars.chars().collect()))
    };
    let every = |good: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(good));
    Ok(match method {
        "upper" => text.to_uppercase().into(),
        "lower" | "casefold" => text.to_lowercase().into(),
        "title" => words(text).into(),
        "capitalize" => {
            let mut rest = text.chars();
            let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
            (first + &rest.as_str().to_lowercase()).into()
        }
        "strip" => text.trim_matches(&chars(args)?[..]).into(),
        "lstrip" => text.trim_start_matches(&chars(args)?[..]).into(),
        "rstrip" => text.trim_end_matches(&chars(args)?[..]).into(),
        "split" => {
            let (separator, most): (Option<String>, Option<usize>) = from_args(args)?;
            let parts: Vec<&str> = match (&separator, most) {
                (None, _) => text.split_whitespace().collect(),
                (Some(separator), None) => text.split(separator.as_str()).collect(),
                (Some(separator), Some(most)) => text.splitn(most + 1, separator.as_str()).collect(),
            };
            parts.into_iter().collect()
        }
        "splitlines" => text.lines().collect(),
        "replace" => {
            let (old, new, most): (String, String, Option<usize>) = from_args(args)?;
            most.map_or_else(|| text.replace(&old, &new), |most| text.replacen(&old, &new, most)).into()
        }
        "startswith" => starts(args, |prefix| text.starts_with(prefix))?,
        "endswith" => starts(args, |suffix| text.ends_with(suffix))?,
        "removeprefix" => {
            let (prefix,): (String,) = from_args(args)?;
            text.strip_prefix(prefix.as_str()).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (String,) = from_args(args)?;
            text.strip_suffix(suffix.as_str()).unwrap_or(text).into()
        }
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            items.try_iter()?.map(|item| item.to_string()).collect::<Vec<_>>().join(text).into()
        }
        "count" => {
            let (part,): (String,) = from_args(args)?;
            text.matches(part.as_str()).count().into()
        }
        "find" => {
            let (wanted,): (String,) = from_args(args)?;
            let before = text.split_once(wanted.as_str()).map(|(before, _)| before.chars().count());
            before.map_or(Value::from(-1), Value::from)
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            format!("{text:0>width$}").into()
        }
        "format" => format(text, args)?.into(),
        "isdigit" | "isnumeric" | "isdecimal" => every(char::is_numeric),
        "isalpha" => every(char::is_alphabetic),
        "isalnum" => every(char::is_alphanumeric),
        "isspace" => every(char::is_whitespace),
        "isupper" => (text.to_uppercase() == text && text.to_lowercase() != text).into(),
        "islower" => (text.to_lowercase() == text && text.to_uppercase() != text).into(),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn starts(args: &[Value], good: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    let found = match wanted.as_str() {
        Some(one) => good(one),
        None => wanted.try_iter()?.any(|one| one.as_str().is_some_and(&good)),
    };
    Ok(Value::from(found))
}

fn words(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if inside {
            out.extend(char.to_lowercase());
        } else {
            out.extend(char.to_uppercase());
        }
        inside = char.is_alphabetic();
    }
    out
}

/// Python's `str.format` with `{}`, `{0}`, `{name}`, `{{`, `}}`; of format specs, only widths with zeros and decimals.
fn format(text: &str, args: &[Value]) -> Result<String, Error> {
    let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let bad = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let mut out = String::new();
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' => {
                chars.next_if_eq(&'}').map_or_else(|| Err(bad("a single `}` in format()".to_owned())), |_| Ok(()))?;
                out.push('}');
            }
            '{' => {
                let inside: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let (name, spec) = inside.split_once(':').unwrap_or((&inside, ""));
                let value = if name.is_empty() {
                    next += 1;
                    given.get(next - 1).cloned()
                } else if let Ok(at) = name.parse::<usize>() {
                    given.get(at).cloned()
                } else {
                    named.get(name).ok()
                };
                let value = value.ok_or_else(|| bad(format!("format() has no value for `{{{inside}}}`")))?;
                out.push_str(&spelled(&value, spec).ok_or_else(|| bad(format!("format() does not know `:{spec}`")))?);
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

fn spelled(value: &Value, spec: &str) -> Option<String> {
    if spec.is_empty() || spec == "s" || spec == "d" {
        return Some(value.to_string());
    }
    if let Some(decimals) = spec.strip_prefix('.').and_then(|spec| spec.strip_suffix('f')) {
        let number = f64::try_from(value.clone()).ok()?;
        return Some(format!("{number:.*}", decimals.parse().ok()?));
    }
    let width = spec.strip_prefix('0')?.trim_end_matches('d').parse::<usize>().ok()?;
    Some(format!("{:0>width$}", value.to_string()))
}

fn dict(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "items" => pairs(value).into_iter().map(|(key, value)| [key, value].into_iter().collect::<Value>()).collect(),
        "keys" => value.try_iter()?.collect(),
        "values" => pairs(value).into_iter().map(|(_, value)| value).collect(),
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key).ok().filter(|found| !found.is_undefined());
            found.or(default).unwrap_or_else(|| Value::from(()))
        }
        "copy" => own(value.clone()),
        _ => return unknown_or_fixed(method),
    })
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "index" => {
            let (item,): (Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|known| known == item);
            at.map(Value::from)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("the list has no `{item}`")))?
        }
        "count" => {
            let (item,): (Value,) = from_args(args)?;
            value.try_iter()?.filter(|known| *known == item).count().into()
        }
        "copy" => own(value.try_iter()?.collect()),
        _ => return unknown_or_fixed(method),
    })
}

fn unknown_or_fixed(method: &str) -> Result<Value, Error> {
    let changing = ["append", "extend", "insert", "pop", "remove", "reverse", "sort", "update", "setdefault", "clear"];
    if changing.contains(&method) {
        let what = format!("`{method}` cannot change this value: give it a name first, as in `{{% set mine = … %}}`");
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    Err(Error::from(ErrorKind::UnknownMethod))
}
