//! A YAML file with the place of each value.
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::super::error::ModelProblem;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Yaml,
    /// The bytes of the file: the whole scalar, or the first byte of a list or map.
    pub(super) span: Range<usize>,
}

/// What YAML knows.
#[derive(Debug, Clone)]
pub(super) enum Yaml {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the file's order.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Range<usize>,
}

/// Reads the first document of `text`; an empty file is an empty map.
pub(super) fn read(file: &Path, text: &str) -> Result<Node, Box<ModelProblem>> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node { value: Yaml::Null, span: 0..0 });
    }
    match serde_saphyr::from_str::<Spanned<Yaml>>(text) {
        Ok(root) => Ok(Node { span: span(root.referenced), value: root.value }),
        Err(error) => {
            let error = error.without_snippet();
            let said = error.to_string();
            let what = said.lines().next().unwrap_or_default();
            let what = what.strip_prefix("error: ").unwrap_or(what);
            let place = error.location().map(span);
            Err(Box::new(ModelProblem::new(file, format!("this is no YAML: {what}")).maybe_span(place)))
        }
    }
}

fn span(location: Location) -> Range<usize> {
    let whole = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok());
    let start = whole(location.span().byte_offset()).unwrap_or(0);
    start..start + whole(location.span().byte_len()).unwrap_or(0)
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Yaml::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A scalar as text: `true`, `1`, `a`.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.value {
            Yaml::Text(text) => Some(text.clone()),
            Yaml::Bool(bool) => Some(bool.to_string()),
            Yaml::Int(number) => Some(number.to_string()),
            Yaml::Float(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The entries of a map; none of anything else.
    pub(super) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Yaml::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Yaml::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.name == key).map(|(_, value)| value)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Yaml::Null)
    }

    /// The texts of a list, or the one text; `None` if it is neither.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match &self.value {
            Yaml::List(items) => items.iter().map(Node::scalar).collect(),
            _ => self.scalar().map(|one| vec![one]),
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        match &self.value {
            Yaml::Null => serde_json::Value::Null,
            Yaml::Bool(bool) => (*bool).into(),
            Yaml::Int(number) => (*number).into(),
            Yaml::Float(number) => (*number).into(),
            Yaml::Text(text) => text.as_str().into(),
            Yaml::List(items) => items.iter().map(Self::json).collect(),
            Yaml::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|(key, value)| (key.name.clone(), value.json())).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyYaml)
    }
}

struct AnyYaml;

impl<'de> Visitor<'de> for AnyYaml {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(i64::try_from(value).map_or_else(|_| Yaml::Text(value.to_string()), Yaml::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Yaml>>()? {
            list.push(Node { span: span(item.referenced), value: item.value });
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<Yaml>>()? {
            let value = entries.next_value::<Spanned<Yaml>>()?;
            let node = Node { span: span(key.referenced), value: key.value };
            let key = Key { name: node.scalar().unwrap_or_default(), span: node.span };
            map.push((key, Node { span: span(value.referenced), value: value.value }));
        }
        Ok(Yaml::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_where_they_are() {
        let text = "version: 2\nmodels:\n  - name: orders\n    columns:\n      - {name: 'id', tests: [unique, {accepted_values: {values: [a, 1]}}]}\n";

        let root = read(Path::new("x.yml"), text).unwrap();

        let model = &root.get("models").unwrap().items()[0];
        let name = model.get("name").unwrap();
        assert_eq!((name.text(), text.get(name.span.clone())), (Some("orders"), Some("orders")));
        let column = &model.get("columns").unwrap().items()[0];
        let tests = column.get("tests").unwrap().items();
        assert_eq!(text.get(tests[0].span.clone()), Some("unique"));
        let (key, value) = &tests[1].entries()[0];
        assert_eq!(text.get(key.span.clone()), Some("accepted_values"));
        assert_eq!(value.get("values").unwrap().texts().unwrap(), ["a", "1"]);
        assert_eq!(value.json(), serde_json::json!({ "values": ["a", 1] }));
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let problem = read(Path::new("x.yml"), "models:\n  - name: [a\nb: c\n").unwrap_err();

        assert!(problem.span.is_some(), "{problem}");
        assert!(read(Path::new("x.yml"), "").unwrap().is_null());
    }
}
