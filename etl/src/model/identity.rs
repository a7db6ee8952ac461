//! What a model's table was made by: numbers that change when its rows might.
use std::collections::BTreeSet;

use datafusion::logical_expr::LogicalPlan;

use super::project::{Materialization, Model, Project};
use crate::engine::normal_form;

/// The SELECT of a model, planned, to be made into numbers.
///
/// The resolved plan says which columns a `*` stands for. It does not say everything (of `VALUES` it shows the first rows),
/// so the texts count too, without comments and format: the model's own, and those of the views that it reads through.
pub(super) struct Identity(blake3::Hasher);

impl Identity {
    pub(super) fn of(project: &Project, model: &Model, plan: &LogicalPlan) -> Self {
        let mut made = Self(blake3::Hasher::new());
        made.add(&plan.display_indent_schema().to_string());
        made.add(env!("CARGO_PKG_VERSION"));
        made.add(&normal_form(&model.sql));
        for view in views_above(project, model) {
            made.add(&normal_form(&view.sql));
        }
        made
    }

    /// The number with what else the rows depend on.
    pub(super) fn number(&self, other: &str) -> i64 {
        let mut with = Self(self.0.clone());
        with.add(other);
        positive(with.0.finalize())
    }

    fn add(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
}

/// A number for a text.
pub(super) fn of_text(text: &str) -> i64 {
    positive(blake3::hash(text.as_bytes()))
}

/// Its first 63 bits: progress is never negative.
fn positive(digest: blake3::Hash) -> i64 {
    let (head, _) = digest.as_bytes().split_at(8);
    i64::from_le_bytes(head.try_into().unwrap_or_default()) & i64::MAX
}

/// The views that `model` reads through, each once, by name.
pub(super) fn views_above<'p>(project: &'p Project, model: &Model) -> Vec<&'p Model> {
    let mut seen = BTreeSet::new();
    let mut views = Vec::new();
    let mut above: Vec<&str> = model.refs.iter().map(String::as_str).collect();
    while let Some(name) = above.pop() {
        let Some(parent) = project.models.get(name) else { continue };
        if seen.insert(&parent.name) && parent.materialization == Materialization::View {
            views.push(parent);
            above.extend(parent.refs.iter().map(String::as_str));
        }
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// What `model` reads that no version of a table says: a file.
pub(super) fn reads_files(project: &Project, model: &Model) -> Option<String> {
    let texts = views_above(project, model).into_iter().map(|view| &view.sql).chain([&model.sql]);
    let mut texts = texts.map(|sql| normal_form(sql).to_lowercase());
    texts.any(|text| text.contains("read_items(")).then(|| "read_items".to_owned())
}
