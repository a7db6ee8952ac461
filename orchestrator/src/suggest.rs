//! "Did you mean": the nearest known word to one that is not known.

/// Returns the candidate nearest to `word`, if it is near enough to be a slip of the hand.
///
/// Near enough: at most one edit per three characters (at least one, at most four), where a swap of two neighbours is one edit.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Renders ``did you mean `x`?`` for the nearest candidate, else the list of what is known.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(word, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let known: Vec<String> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    (!known.is_empty()).then(|| format!("known: {}", known.join(", ")))
}

/// The optimal string alignment distance (Damerau–Levenshtein without a second edit inside a swap).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    for (index, cell) in rows[0].iter_mut().enumerate() {
        *cell = index;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let change = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_does_not() {
        assert_eq!(nearest("shedule", ["schedule", "publish"]), Some("schedule"));
        assert_eq!(nearest("pulbish", ["schedule", "publish"]), Some("publish"));
        assert_eq!(nearest("Ingset", ["ingest", "stream"]), Some("ingest"));
        assert_eq!(nearest("banana", ["schedule", "publish"]), None);
        assert_eq!(hint("zzz", ["a", "bb"]).as_deref(), Some("known: `a`, `bb`"));
        assert_eq!(hint("zzz", []), None);
    }
}
