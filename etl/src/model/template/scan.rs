//! Where a template's tags are, without rendering it.
use std::ops::Range;

/// What a piece of a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes to the output as it is.
    Text,
    /// `{{ … }}`
    Expression,
    /// `{% … %}`
    Block,
    /// `{# … #}`
    Comment,
}

/// A piece of a template; pieces follow each other without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its bytes, with the braces.
    pub(crate) span: Range<usize>,
}

impl Piece {
    /// What is between the braces of a tag, without `-`, `+` and blanks, and where it begins.
    pub(crate) fn inside<'t>(&self, text: &'t str) -> (usize, &'t str) {
        let start = self.span.start + 2;
        let end = self.span.end.saturating_sub(2).max(start);
        let whole = text.get(start..end).unwrap_or_default();
        let trimmed = whole.trim_start_matches(['-', '+']).trim_start();
        let at = start + (whole.len() - trimmed.len());
        (at, trimmed.trim_end_matches(['-', '+']).trim_end())
    }

    /// The first word of a `{% … %}`.
    pub(crate) fn word<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.kind != Kind::Block {
            return None;
        }
        let (_, inside) = self.inside(text);
        inside.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|word| !word.is_empty())
    }
}

/// All pieces of `text`. What is not closed is text: rendering says what is wrong with it.
pub(crate) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    let mut raw = false;
    while at < text.len() {
        let Some((start, kind)) = next_tag(text, at) else { break };
        let Some(end) = tag_end(text, start, kind) else { break };
        let piece = Piece { kind, span: start..end };
        let word = piece.word(text);
        if raw && word != Some("endraw") {
            at = start + 2;
            continue;
        }
        raw = word == Some("raw");
        let from = pieces.last().map_or(0, |piece| piece.span.end);
        if from < start {
            pieces.push(Piece { kind: Kind::Text, span: from..start });
        }
        pieces.push(piece);
        at = end;
    }
    let from = pieces.last().map_or(0, |piece| piece.span.end);
    if from < text.len() {
        pieces.push(Piece { kind: Kind::Text, span: from..text.len() });
    }
    pieces
}

fn next_tag(text: &str, from: usize) -> Option<(usize, Kind)> {
    let bytes = text.as_bytes();
    (from..bytes.len().saturating_sub(1)).find_map(|at| {
        let kind = match (bytes[at], bytes[at + 1]) {
            (b'{', b'{') => Kind::Expression,
            (b'{', b'%') => Kind::Block,
            (b'{', b'#') => Kind::Comment,
            _ => return None,
        };
        Some((at, kind))
    })
}

fn tag_end(text: &str, start: usize, kind: Kind) -> Option<usize> {
    let bytes = text.as_bytes();
    let close = match kind {
        Kind::Text => return None,
        Kind::Expression => b"}}",
        Kind::Block => b"%}",
        Kind::Comment => b"#}",
    };
    let mut at = start + 2;
    // A literal may hold what looks like the end, and a dictionary's brace may stand before it.
    let mut quote = None;
    let mut depth = 0_usize;
    while at + 1 < bytes.len() {
        let byte = bytes[at];
        if kind != Kind::Comment {
            match (quote, byte) {
                (Some(_), b'\\') => {
                    at += 2;
                    continue;
                }
                (Some(open), _) if byte == open => quote = None,
                (Some(_), _) => {
                    at += 1;
                    continue;
                }
                (None, b'\'' | b'"') => quote = Some(byte),
                (None, b'{') => depth += 1,
                (None, b'}') if depth > 0 => {
                    depth -= 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
        }
        if bytes.get(at..at + 2) == Some(close) {
            return Some(at + 2);
        }
        at += 1;
    }
    None
}

/// A template as the renderer takes it, and where its bytes were in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prepared {
    /// The text to be rendered.
    pub(crate) text: String,
    /// The name in `{% snapshot NAME %}`, if the file has one.
    pub(crate) snapshot: Option<String>,
    /// (bytes here, bytes in the file), in order, where the two differ.
    edits: Vec<(Range<usize>, Range<usize>)>,
}

impl Prepared {
    /// The place in the file for a place in the text.
    pub(crate) fn original(&self, at: usize) -> usize {
        let mut moved = 0_isize;
        for (here, there) in &self.edits {
            if at < here.start {
                break;
            }
            if at < here.end {
                return there.start + (at - here.start).min(there.len());
            }
            moved = there.end.cast_signed() - here.end.cast_signed();
        }
        at.saturating_add_signed(moved)
    }

    /// The bytes of the file for bytes of the text.
    pub(crate) fn original_span(&self, span: Range<usize>) -> Range<usize> {
        let start = self.original(span.start);
        start..self.original(span.end).max(start)
    }

    fn copy(&mut self, text: &str, span: Range<usize>) {
        self.text.push_str(text.get(span).unwrap_or_default());
    }

    fn replace(&mut self, with: &str, there: Range<usize>) {
        let start = self.text.len();
        self.text.push_str(with);
        self.edits.push((start..self.text.len(), there));
    }
}

/// Methods that change what they are called on.
const CHANGING: &[&str] =
    &[".append(", ".extend(", ".insert(", ".update(", ".pop(", ".remove(", ".reverse(", ".sort(", ".setdefault("];

/// Makes dbt's tags what the renderer knows: a snapshot's SELECT stands by itself, a generic test is a macro
/// `test_NAME`, and lists and dictionaries that a file changes are kept in variables that can be changed.
pub(crate) fn prepare(text: &str) -> Prepared {
    let changing = CHANGING.iter().any(|method| text.contains(method));
    let mut out = Prepared::default();
    for piece in pieces(text) {
        let (start, inside) = piece.inside(text);
        match piece.word(text) {
            Some("snapshot") => {
                let name = inside.split_whitespace().nth(1).unwrap_or_default();
                out.snapshot = Some(name.to_owned());
                out.replace(&blank(text, &piece.span), piece.span.clone());
            }
            Some("endsnapshot") => out.replace(&blank(text, &piece.span), piece.span.clone()),
            Some("test" | "data_test") => {
                let word = inside.split_whitespace().next().map_or(4, str::len);
                let rest = inside.get(word..).unwrap_or_default();
                let name = start + word + (rest.len() - rest.trim_start().len());
                out.copy(text, piece.span.start..start);
                out.replace("macro test_", start..name);
                out.copy(text, name..piece.span.end);
            }
            Some("endtest" | "enddata_test") => {
                out.copy(text, piece.span.start..start);
                out.replace("endmacro", start..start + inside.len());
                out.copy(text, start + inside.len()..piece.span.end);
            }
            Some("set") if changing => match assigned(inside) {
                Some(at) => {
                    out.copy(text, piece.span.start..start + at);
                    out.replace("own(", start + at..start + at);
                    out.copy(text, start + at..start + inside.len());
                    out.replace(")", start + inside.len()..start + inside.len());
                    out.copy(text, start + inside.len()..piece.span.end);
                }
                None => out.copy(text, piece.span.clone()),
            },
            _ => out.copy(text, piece.span.clone()),
        }
    }
    out
}

/// Where the value of `set NAME = VALUE` begins; `None` for the form that captures a block, and for several names.
fn assigned(inside: &str) -> Option<usize> {
    let equals = inside.find('=')?;
    let names = inside.get(3..equals)?.trim();
    let one = !names.is_empty() && names.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let value = inside.get(equals + 1..)?;
    one.then(|| equals + 1 + (value.len() - value.trim_start().len()))
}

fn blank(text: &str, span: &Range<usize>) -> String {
    let tag = text.get(span.clone()).unwrap_or_default();
    tag.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The macros that a file defines: name and place of the name.
pub(crate) fn macros(prepared: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    for piece in pieces(prepared).iter().filter(|piece| piece.word(prepared) == Some("macro")) {
        let (start, inside) = piece.inside(prepared);
        let Some(rest) = inside.strip_prefix("macro") else { continue };
        let name = rest.trim_start();
        let at = start + inside.len() - name.len();
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            found.push((name.clone(), at..at + name.len()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(Kind, &str)> {
        pieces(text).into_iter().map(|piece| (piece.kind, text.get(piece.span).unwrap())).collect()
    }

    #[test]
    fn pieces_cover_the_text_and_literals_do_not_end_them() {
        let text = "a {{ f('}}', {'k': {}}) }} b {# {{ no }} #}{% raw %}{{ x }}{% endraw %}c {{ open";

        assert_eq!(
            shown(text),
            [
                (Kind::Text, "a "),
                (Kind::Expression, "{{ f('}}', {'k': {}}) }}"),
                (Kind::Text, " b "),
                (Kind::Comment, "{# {{ no }} #}"),
                (Kind::Block, "{% raw %}"),
                (Kind::Text, "{{ x }}"),
                (Kind::Block, "{% endraw %}"),
                (Kind::Text, "c {{ open"),
            ]
        );
    }

    #[test]
    fn dbts_own_tags_become_what_the_renderer_knows() {
        let text = "{%- snapshot orders_s -%}\nselect 1\n{% endsnapshot %}{% test even(model) %}x{% endtest %}";

        let prepared = prepare(text);

        assert_eq!(prepared.snapshot.as_deref(), Some("orders_s"));
        assert_eq!(prepared.text.lines().count(), text.lines().count());
        assert!(prepared.text.ends_with("{% macro test_even(model) %}x{% endmacro %}"), "{}", prepared.text);
        assert_eq!(macros(&prepared.text)[0].0, "test_even");
        let at = prepared.text.find("even(model)").unwrap();
        assert_eq!(prepared.original(at), text.find("even(model)").unwrap());
        let at = prepared.text.find("x{% endmacro").unwrap();
        assert_eq!(prepared.original(at), text.find("x{% endtest").unwrap());
    }

    #[test]
    fn a_variable_that_is_changed_owns_its_value() {
        let text = "{% set xs = [] %}{% do xs.append(1) %}{% set a, b = 1, 2 %}{% set c %}t{% endset %}z";

        let prepared = prepare(text);

        assert!(prepared.text.starts_with("{% set xs = own([]) %}{% do"), "{}", prepared.text);
        assert!(prepared.text.contains("{% set a, b = 1, 2 %}{% set c %}t"));
        assert_eq!(prepared.original(prepared.text.len() - 1), text.len() - 1);
        assert_eq!(prepare("{% set xs = [] %}").text, "{% set xs = [] %}");
    }
}
