//! Which known name somebody meant.

/// The known name that is fewest edits away from `given`, if that is near enough to be what was meant: at most a third
/// of its letters, and at least one. The first of several.
pub(crate) fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Names have at most 63 characters; anything much longer is no slip of the finger, and costs time.
    if given.len() > 128 {
        return None;
    }
    let near = |name: &'k str| (distance(given, name), name);
    let (edits, name) = known.into_iter().map(near).min_by_key(|(edits, _)| *edits)?;
    let prefix = given.len() >= 3 && (name.starts_with(given) || given.starts_with(name) && name.len() >= 3);
    (prefix || edits <= (name.chars().count() / 3).max(1)).then_some(name)
}

/// `a`, `b` and `c`: at most 16, then how many more.
pub(crate) fn among<'k>(known: impl IntoIterator<Item = &'k str>) -> String {
    const SHOWN: usize = 16;
    let names: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        return format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN);
    }
    match names.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Edits from `a` to `b`: a letter more, a letter less, another letter, or two neighbours swapped (optimal string
/// alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let other = usize::from(a[i - 1] != b[j - 1]);
            let mut edits = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + other);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(before_last[j - 2] + 1);
            }
            row.push(edits);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_none() {
        let keys = ["address", "replicas", "size", "site"];
        assert_eq!(nearest("adress", keys), Some("address"));
        assert_eq!(nearest("replica", keys), Some("replicas"));
        assert_eq!(nearest("szie", keys), Some("size"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest("h2", ["r1", "h1", "w1"]), Some("h1"));
    }

    #[test]
    fn distances() {
        for (a, b, edits) in [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("abc", "adc", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }
}
