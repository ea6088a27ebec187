//! "Did you mean": the known name that is nearest to a mistaken one.

/// The candidate that is so near to `name` that it was likely meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A swapped, missing or wrong letter is a typo; beyond a third of the word it is another word.
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A hint that names the nearest candidate, or else all of them.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    const SHOWN: usize = 12;
    let mut all: Vec<&str> = candidates.into_iter().collect();
    let hidden = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    match (all.is_empty(), hidden) {
        (true, _) => None,
        (false, 0) => Some(format!("known are: {}", all.join(", "))),
        (false, hidden) => Some(format!("known are: {} and {hidden} more", all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_another_word_does_not() {
        let known = ["title", "endpoints", "actions", "provider"];
        assert_eq!(nearest("titel", known), Some("title"));
        assert_eq!(nearest("endpoint", known), Some("endpoints"));
        assert_eq!(nearest("a", known), None);
        assert_eq!(did_you_mean("colour", known).as_deref(), Some("known are: title, endpoints, actions, provider"));
        assert_eq!(did_you_mean("colour", []), None);
    }
}
