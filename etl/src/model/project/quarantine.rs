//! `rejected=true`: rows that break a check go beside the model instead of keeping it back.
//!
//! Both tables are plain SELECTs over the model's: one keeps the rows that are good, `<model>__rejected` the others, with a
//! column `rejected_by` that names the checks. So both are kept up to date as any other model.
use serde_json::Value as Json;

use super::super::error::ModelProblem;
use super::super::statement::bare;
use super::{Materialization, Model, Project, Severity};

impl Project {
    pub(super) fn quarantine(&mut self, problems: &mut Vec<ModelProblem>) {
        let asked = |model: &&Model| model.config.get("rejected").and_then(Json::as_bool) == Some(true);
        let names: Vec<String> = self.models.values().filter(asked).map(|model| model.name.clone()).collect();
        for name in names {
            let rules: Vec<(String, String)> = self
                .checks_about(&name)
                .filter(|check| check.severity == Severity::Error)
                .filter_map(|check| Some((check.name.clone(), check.bad_row.clone()?)))
                .collect();
            let Some(model) = self.models.get_mut(&name) else { continue };
            if rules.is_empty() || model.materialization == Materialization::Snapshot {
                let what = if rules.is_empty() {
                    format!("`{name}` rejects rows by no check")
                } else {
                    format!("the snapshot `{name}` cannot reject rows")
                };
                problems.push(
                    ModelProblem::new(&model.file, what)
                        .why("`rejected=true` parts the rows that break `not_null` or `accepted_values`")
                        .fix("give it such a check, or take `rejected` out"),
                );
                continue;
            }
            let mut rejected = model.clone();
            let plain = std::mem::take(&mut model.sql);
            let inner = bare(&plain);
            let broken = |condition: &String| format!("coalesce({condition}, false)");
            let any = rules.iter().map(|(_, bad)| broken(bad)).collect::<Vec<_>>().join(" or ");
            let whens = rules.iter().map(|(check, bad)| format!("case when {} then '{check}' end", broken(bad)));
            let whens = whens.collect::<Vec<_>>().join(", ");
            model.sql = format!("select * from (\n{inner}\n) as q where not ({any})");
            rejected.sql =
                format!("select *, concat_ws(', ', {whens}) as rejected_by from (\n{inner}\n) as q where {any}");
            model.plain = Some(plain.clone());
            rejected.plain = Some(plain);
            rejected.name = format!("{name}__rejected");
            rejected.table.table.push_str("__rejected");
            rejected.unique_key.clear();
            rejected.columns.clear();
            rejected.description = format!("Rows of `{name}` that break its checks.");
            if let Some(other) = self.models.insert(rejected.name.clone(), rejected) {
                problems.push(ModelProblem::new(
                    &other.file,
                    format!("`{}` is the name of the rows that `{name}` rejects", other.name),
                ));
            }
        }
    }
}
