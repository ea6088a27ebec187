//! What was likely meant when a name is not known.

/// The candidate that is nearest to `text`, where one is near enough to be a typo.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A hint for an unknown name: the likely one, or else the list.
pub(crate) fn hint<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<_> = candidates.into_iter().collect();
    match nearest(text, candidates.iter().copied()) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("there is: {}", candidates.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_gets_the_name_and_nonsense_gets_the_list() {
        let known = ["create-issue", "list-issues"];
        assert_eq!(hint("create-isue", known).as_deref(), Some("did you mean `create-issue`?"));
        assert_eq!(hint("zzz", known).as_deref(), Some("there is: create-issue, list-issues"));
        assert_eq!(hint("zzz", []), None);
    }
}
