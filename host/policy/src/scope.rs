//! Sets of OAuth scopes: what an action needs, what a connection has, and which scope implies which.

use std::collections::{BTreeMap, BTreeSet};

/// Which scopes a provider's scope includes, for example `repo` includes `public_repo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Implications(BTreeMap<String, Vec<String>>);

impl Implications {
    /// From the provider's table: a scope and those that it directly includes.
    pub fn new(table: BTreeMap<String, Vec<String>>) -> Self {
        Self(table)
    }

    /// The granted scopes and all that they include, directly or by others. A circle in the table does no harm.
    pub fn closure(&self, granted: &BTreeSet<String>) -> BTreeSet<String> {
        let mut closed = granted.clone();
        let mut open: Vec<&str> = granted.iter().map(String::as_str).collect();
        while let Some(scope) = open.pop() {
            for implied in self.0.get(scope).into_iter().flatten() {
                if closed.insert(implied.clone()) {
                    open.push(implied);
                }
            }
        }
        closed
    }

    /// `scopes` without those that others of them include.
    pub fn without_included(&self, mut scopes: BTreeSet<String>) -> BTreeSet<String> {
        let all: Vec<String> = scopes.iter().cloned().collect();
        for scope in all {
            // One by one, so that of two scopes which include each other one stays.
            scopes.remove(&scope);
            if !self.closure(&scopes).contains(&scope) {
                scopes.insert(scope);
            }
        }
        scopes
    }
}

/// The first of the sets `needed` of which every scope is granted; where `needed` is empty, nothing is needed.
///
/// # Errors
/// What is missing of the set that lacks least; of sets that lack equally many, the first.
pub fn satisfied<'a>(needed: &'a [Vec<String>], granted: &BTreeSet<String>) -> Result<&'a [String], Vec<String>> {
    let mut least: Option<Vec<String>> = None;
    for set in needed {
        let missing: Vec<String> = set.iter().filter(|scope| !granted.contains(*scope)).cloned().collect();
        if missing.is_empty() {
            return Ok(set);
        }
        if least.as_ref().is_none_or(|least| missing.len() < least.len()) {
            least = Some(missing);
        }
    }
    match least {
        Some(missing) => Err(missing),
        None => Ok(&[]),
    }
}

/// Whether the text is a scope token (RFC 6749 section 3.3).
pub fn is_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scopes: &[&str]) -> BTreeSet<String> {
        scopes.iter().map(|&s| s.to_owned()).collect()
    }

    fn needed(sets: &[&[&str]]) -> Vec<Vec<String>> {
        sets.iter().map(|set| set.iter().map(|&s| s.to_owned()).collect()).collect()
    }

    #[test]
    fn one_whole_set_must_be_granted() {
        let needs = needed(&[&["repo"], &["public_repo", "read:user"]]);
        assert_eq!(satisfied(&needs, &set(&["repo"])), Ok(&needs[0][..]));
        assert_eq!(satisfied(&needs, &set(&["public_repo", "read:user"])), Ok(&needs[1][..]));
        assert_eq!(satisfied(&needs, &set(&["public_repo"])), Err(vec!["repo".to_owned()]));
        assert_eq!(satisfied(&needs, &set(&[])), Err(vec!["repo".to_owned()]));
    }

    #[test]
    fn what_is_missing_is_of_the_set_that_lacks_least() {
        let needs = needed(&[&["a", "b", "c"], &["c", "d"]]);
        assert_eq!(satisfied(&needs, &set(&["d"])), Err(vec!["c".to_owned()]));
    }

    #[test]
    fn no_sets_need_nothing() {
        assert_eq!(satisfied(&[], &set(&[])), Ok(&[][..]));
    }

    #[test]
    fn closure_follows_implications_over_steps_and_circles() {
        let table = [("admin", vec!["write"]), ("write", vec!["read"]), ("read", vec!["admin"])];
        let table = table.map(|(s, i)| (s.to_owned(), i.into_iter().map(str::to_owned).collect()));
        let implications = Implications::new(table.into());
        assert_eq!(implications.closure(&set(&["write", "other"])), set(&["admin", "other", "read", "write"]));
        assert_eq!(implications.closure(&set(&["other"])), set(&["other"]));
    }

    #[test]
    fn scope_token_follows_the_rfc() {
        for good in ["repo", "https://www.googleapis.com/auth/drive.file", "read:user", "!#[]^~"] {
            assert!(is_scope_token(good), "{good:?}");
        }
        for bad in ["", "a b", "a\"", "a\\", "ä", "a\n"] {
            assert!(!is_scope_token(bad), "{bad:?}");
        }
    }
}
