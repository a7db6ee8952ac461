//! Files that are part of the binary: the sample project and the pages about error codes. `build.rs` gathers them.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every text that looks like a code in the sources of a folder.
    fn codes_under(folder: &Path, codes: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                codes_under(&path, codes);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // Tests name codes too, existing ones; they come last in a file.
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                codes.extend(text.split('"').skip(1).step_by(2).filter(|word| is_code(word)).map(ToOwned::to_owned));
                codes.extend(text.split('"').skip(2).step_by(2).filter(|word| is_code(word)).map(ToOwned::to_owned));
            }
        }
    }

    fn is_code(word: &str) -> bool {
        let mut letters = word.chars();
        letters.next().is_some_and(|first| "SDFCBTLMQKGX".contains(first))
            && word.len() == 5
            && letters.all(|c| c.is_ascii_digit())
    }

    #[test]
    fn every_code_has_its_page_and_every_page_its_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut used = BTreeSet::new();
        for folder in ["src", "etl/src", "orchestrator/src"] {
            codes_under(&root.join(folder), &mut used);
        }

        let pages: BTreeSet<String> = ERRORS.iter().map(|(code, _)| (*code).to_owned()).collect();

        assert_eq!(
            used.difference(&pages).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "codes without docs/errors/CODE.md"
        );
        assert_eq!(pages.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new(), "pages of codes nobody uses");
        for (code, page) in ERRORS {
            assert!(page.starts_with(&format!("# {code}: ")), "docs/errors/{code}.md begins with its code");
        }
    }
}
