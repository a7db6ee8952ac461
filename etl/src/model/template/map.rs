//! From a place in rendered SQL back to the file that a person wrote.
//!
//! The template is rendered a second time with a mark before each word of its text. A mark stands right before
//! something that is not blank, so that blanks that tags strip are stripped as before; if what is rendered then is not the
//! same text but for the marks (somebody compares or counts what a block gave), there is no map, and only lines are guessed.
use std::fmt::Write as _;
use std::ops::Range;

use super::scan::{Kind, Piece, pieces};

/// Private-use characters that no SQL has.
const OPEN: char = '\u{F8F0}';
const CLOSE: char = '\u{F8F1}';

/// Where the words of a rendered text come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceMap {
    /// (start in the rendered text, start in the template, bytes), in the rendered order.
    words: Vec<(usize, usize, usize)>,
    tags: Vec<Range<usize>>,
    length: usize,
}

/// The template with a mark before each word that goes to the output directly; `None` if it has such marks already.
pub(crate) fn marked(text: &str) -> Option<String> {
    if text.contains([OPEN, CLOSE]) {
        return None;
    }
    let mut out = String::with_capacity(text.len() * 2);
    // Text within these is a value first, and may be asked about.
    let mut captured = 0_usize;
    for piece in pieces(text) {
        let part = text.get(piece.span.clone())?;
        match piece.word(text) {
            Some("macro" | "call" | "filter") => captured += 1,
            Some("set") if !part.contains('=') => captured += 1,
            Some("endmacro" | "endcall" | "endfilter" | "endset") => captured = captured.saturating_sub(1),
            _ => {}
        }
        if piece.kind != Kind::Text || captured > 0 {
            out.push_str(part);
            continue;
        }
        let mut in_word = false;
        for (at, char) in part.char_indices() {
            if !char.is_whitespace() && !in_word {
                let rest = part.get(at..)?;
                let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
                write!(out, "{OPEN}{},{length}{CLOSE}", piece.span.start + at).ok()?;
            }
            in_word = !char.is_whitespace();
            out.push(char);
        }
    }
    Some(out)
}

impl SourceMap {
    /// Reads the marks of a rendered text; `None` if without them it is not `plain`. `template` is what was marked.
    pub(crate) fn read(rendered: &str, plain: &str, template: &str) -> Option<Self> {
        let tag = |piece: Piece| (piece.kind == Kind::Expression).then_some(piece.span);
        let tags = pieces(template).into_iter().filter_map(tag).collect();
        let mut map = Self { words: Vec::new(), tags, length: template.len() };
        let mut clean = String::with_capacity(plain.len());
        let mut parts = rendered.split(OPEN);
        clean.push_str(parts.next()?);
        for part in parts {
            let (mark, text) = part.split_once(CLOSE)?;
            let (start, length) = mark.split_once(',')?;
            map.words.push((clean.len(), start.parse().ok()?, length.parse().ok()?));
            clean.push_str(text);
        }
        (clean == plain).then_some(map)
    }

    /// The bytes of the template that gave `span` of the rendered text: the words themselves, or the tag between two.
    pub(crate) fn template(&self, span: &Range<usize>) -> Range<usize> {
        let first = self.at(span.start);
        let last = self.at(span.end.saturating_sub(1).max(span.start));
        first.start..last.end.max(first.end).min(self.length)
    }

    fn at(&self, rendered: usize) -> Range<usize> {
        let after = self.words.partition_point(|(start, _, _)| *start <= rendered);
        let Some((start, source, length)) = after.checked_sub(1).and_then(|n| self.words.get(n)) else {
            return self.tag_after(0);
        };
        let within = rendered - start;
        if within < *length {
            return source + within..source + within + 1;
        }
        let end = source + length;
        match self.words.get(after) {
            // In a loop the next word stands before this one: what is between them ends there.
            Some((_, next, _)) if *next < end => {
                self.tags.iter().rev().find(|tag| tag.end <= *next).cloned().unwrap_or(end..end)
            }
            _ => self.tag_after(end),
        }
    }

    /// The first `{{ … }}` from here on.
    fn tag_after(&self, from: usize) -> Range<usize> {
        self.tags.iter().find(|tag| tag.start >= from).cloned().unwrap_or(from..from)
    }
}

/// The byte at a line and column, both from 1, the column in characters.
pub(crate) fn offset(text: &str, line: u64, column: u64) -> usize {
    let skipped = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let before: usize = text.split_inclusive('\n').take(skipped).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let columns = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    before + rest.chars().take(columns).take_while(|c| *c != '\n').map(char::len_utf8).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(template: &str) -> (String, SourceMap) {
        let environment = minijinja::Environment::new();
        let render = |text: &str| environment.render_str(text, minijinja::context! { t => "some.table" }).unwrap();
        let plain = render(template);
        let map = SourceMap::read(&render(&marked(template).unwrap()), &plain, template).unwrap();
        (plain, map)
    }

    fn leads(template: &str, word: &str) -> String {
        let (plain, map) = map(template);
        let at = plain.find(word).unwrap();
        template.get(map.template(&(at..at + word.len()))).unwrap().to_owned()
    }

    #[test]
    fn words_lead_to_words_and_what_tags_gave_to_the_tag() {
        let template = "{# note #}\n{%- set x = 1 -%}\nselect  prico,\n  pre_{{ t }}, b from {{ t }} s\n";

        assert_eq!(leads(template, "prico"), "prico");
        assert_eq!(leads(template, "pre_"), "pre_");
        assert_eq!(leads(template, "some.table s"), "{{ t }} s");
        assert_eq!(leads(template, "table,"), "{{ t }},");
    }

    #[test]
    fn stripped_blanks_stay_stripped_and_loops_lead_to_their_body() {
        let template = "select {% for c in ['a', 'b'] -%}\n  sum({{ c }}) as n_{{ c }}\n  {%- if not loop.last %}, {% endif -%}\n{% endfor %} from x";

        let (plain, _) = map(template);

        assert_eq!(plain, "select sum(a) as n_a, sum(b) as n_b from x");
        assert_eq!(leads(template, "sum(b"), "sum({{ c }}");
        assert_eq!(leads(template, "from"), "from");
    }

    #[test]
    fn a_text_that_is_asked_about_has_no_map() {
        let template = "{% set x %}abc{% endset %}{{ x|length }}";
        let (plain, _) = map(template);
        assert_eq!(plain, "3");

        assert!(SourceMap::read("abcd", "abc", "abc").is_none());
    }

    #[test]
    fn lines_and_columns_are_counted_from_one_in_characters() {
        assert_eq!(offset("a\nüb c", 2, 3), "a\nüb".len());
        assert_eq!(offset("a\nb", 9, 9), 3);
    }
}
