//! "Did you mean": the nearest known word to one that is not known.

/// How many known words are listed where none is near.
const LISTED: usize = 12;

/// The known word nearest to `word`, if it is near enough: a slip of the hand (one edit in three letters, a swap is one
/// edit), or the beginning of a word, four letters at least.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let letters = word.chars().count();
    let limit = (letters / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance <= limit || (letters >= 4 && candidate.to_lowercase().starts_with(&word))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// ``did you mean `x`?`` for the nearest word, else what is known, else nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(word, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let mut names = known.into_iter().map(|name| format!("`{name}`"));
    let listed = names.by_ref().take(LISTED).collect::<Vec<_>>().join(", ");
    let more = names.count();
    match (listed.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("known: {listed}")),
        (false, more) => Some(format!("known: {listed} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_gets_the_list() {
        assert_eq!(hint("ulr", ["url", "s3"]).as_deref(), Some("did you mean `url`?"));
        assert_eq!(hint("memory", ["spill_dir", "memory_limit"]).as_deref(), Some("did you mean `memory_limit`?"));
        assert_eq!(hint("banana", ["url", "s3"]).as_deref(), Some("known: `url`, `s3`"));
        assert_eq!(hint("banana", []), None);
    }
}
