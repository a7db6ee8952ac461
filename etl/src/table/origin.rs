//! What a file's rows were first written as, so that moving them into another file is not taken for a change.
//!
//! Every file stands for a number: the hash of its name. A file that was put together from others stands for the sum of
//! theirs and says so in its name, `part-….o{sum, 32 hex digits}.zstd.parquet`; where several were made at once, the
//! first has the sum and the rest have zero. So the sum over a table's files stays the same through any compaction.

/// What the file at `path` stands for.
pub(super) fn origin(path: &str) -> u128 {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mark = name.split('.').find_map(|part| part.strip_prefix('o').filter(|hex| hex.len() == 32));
    if let Some(sum) = mark.and_then(|hex| u128::from_str_radix(hex, 16).ok()) {
        return sum;
    }
    let hash = blake3::hash(path.as_bytes());
    let (head, _) = hash.as_bytes().split_at(16);
    u128::from_le_bytes(head.try_into().unwrap_or_default())
}

/// What several files stand for together.
pub(super) fn sum<'a>(paths: impl Iterator<Item = &'a str>) -> u128 {
    paths.fold(0, |sum, path| sum.wrapping_add(origin(path)))
}

/// The part of a file's name that says what it stands for.
pub(super) fn mark(sum: u128) -> String {
    format!(".o{sum:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_made_of_others_stands_for_them() {
        let parts = ["part-1.zstd.parquet", "sub/part-2.parquet"];
        let made = format!("part-3{}.zstd.parquet", mark(sum(parts.into_iter())));

        assert_eq!(origin(&made), sum(parts.into_iter()));
        assert_ne!(origin(parts[0]), origin(parts[1]));
        assert_eq!(origin(&format!("part-4{}.zstd.parquet", mark(0))), 0);
    }
}
