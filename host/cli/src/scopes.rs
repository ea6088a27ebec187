//! The least scopes that a set of actions needs, for `keyward connect --for`.

use std::{collections::BTreeSet, str::FromStr};

use keyward_model::{ActionName, ConnectorName, IdError, manifest::Action};
use keyward_policy::scope::{Implications, satisfied};
use keyward_vault::Provider;

/// What `--for` names: a connector, all of it or one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Purpose {
    /// The connector.
    pub(crate) connector: ConnectorName,
    /// The action; `None` means all of them.
    pub(crate) action: Option<ActionName>,
}

impl FromStr for Purpose {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Ok(match text.split_once('.') {
            None => Self { connector: text.parse()?, action: None },
            Some((connector, action)) => Self { connector: connector.parse()?, action: Some(action.parse()?) },
        })
    }
}

/// Scopes with which every one of `actions` may run: those that are `given`, as they are, and the least that is missing
/// beside them. Where an action leaves a choice, the set that adds least to what the others need is taken; a scope that
/// another one includes is not asked for beside it.
fn least(given: BTreeSet<String>, actions: &[Action], implications: &Implications) -> BTreeSet<String> {
    let mut needs: Vec<&[Vec<String>]> = actions.iter().map(|action| action.scopes.as_slice()).collect();
    // What is not open to choice comes first, so that the choices can build on it.
    needs.sort_by_key(|sets| sets.len());
    let mut chosen = given.clone();
    for sets in needs {
        if let Err(missing) = satisfied(sets, &implications.closure(&chosen)) {
            chosen.extend(missing);
        }
    }
    let added = implications.without_included(chosen);
    given.into_iter().chain(added).collect()
}

/// The scopes to ask for: those that are `given`, and the least that `actions` need beside them and beside those that
/// are `granted`. Actions name scopes without the prefix by which a provider tells two kinds of tokens apart; they are
/// asked for with that of the given ones.
pub(crate) fn asked(
    given: BTreeSet<String>,
    granted: &BTreeSet<String>,
    actions: &[Action],
    provider: &Provider,
) -> BTreeSet<String> {
    let prefix = provider.scope_prefix(&given);
    let mut held: BTreeSet<String> = given.iter().map(|scope| provider.bare_scope(scope).to_owned()).collect();
    held.extend(granted.iter().cloned());
    let added: Vec<String> = least(held.clone(), actions, &provider.implications())
        .difference(&held)
        .map(|scope| format!("{prefix}{scope}"))
        .collect();
    given.into_iter().chain(added).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn action(scopes: &[&[&str]]) -> Action {
        serde_json::from_value(json!({"title": "x", "scopes": scopes})).unwrap()
    }

    fn least_of(given: &[&str], actions: &[&[&[&str]]]) -> Vec<String> {
        let table = [("repo".to_owned(), vec!["public_repo".to_owned(), "repo:status".to_owned()])];
        let actions: Vec<_> = actions.iter().map(|scopes| action(scopes)).collect();
        let given = given.iter().map(|&scope| scope.to_owned()).collect();
        least(given, &actions, &Implications::new(table.into())).into_iter().collect()
    }

    #[test]
    fn the_least_scopes_of_several_actions() {
        for (actions, expected) in [
            (&[] as &[&[&[&str]]], &[] as &[&str]),
            (&[&[]], &[]),
            (&[&[&["public_repo"], &["repo"]]], &["public_repo"]),
            // One action leaves no choice, and what it needs serves the other as well.
            (&[&[&["public_repo"], &["repo"]], &[&["repo"]]], &["repo"]),
            // A scope that another one includes is left out, whichever came first.
            (&[&[&["public_repo"]], &[&["repo"]]], &["repo"]),
            (&[&[&["a", "b"], &["c"]], &[&["a"]]], &["a", "b"]),
            (&[&[&["a", "b", "c"], &["d"]], &[&["a"]]], &["a", "d"]),
        ] {
            assert_eq!(least_of(&[], actions), expected, "{actions:?}");
        }
    }

    #[test]
    fn what_is_given_stays_and_what_it_includes_is_not_added() {
        assert_eq!(least_of(&["repo"], &[&[&["public_repo"]]]), ["repo"]);
        assert_eq!(least_of(&["public_repo"], &[&[&["repo"]]]), ["public_repo", "repo"]);
        assert_eq!(least_of(&["public_repo", "repo"], &[]), ["public_repo", "repo"]);
    }

    #[test]
    fn what_an_action_needs_is_asked_for_in_the_way_of_what_is_given() {
        let catalogue = keyward_vault::Catalogue::builtin();
        let slack = catalogue.find("slack").unwrap();
        let actions = [action(&[&["chat:write", "users:read"]])];
        for (given, granted, expected) in [
            (&[] as &[&str], &[] as &[&str], &["chat:write", "users:read"] as &[&str]),
            (&["chat:write"], &[], &["chat:write", "users:read"]),
            (&["user:chat:write"], &[], &["user:chat:write", "user:users:read"]),
            (&[], &["chat:write"], &["users:read"]),
            (&["user:files:read"], &["chat:write", "users:read"], &["user:files:read"]),
        ] {
            let [given, granted] =
                [given, granted].map(|scopes| scopes.iter().map(|&scope| scope.to_owned()).collect());
            let asked = asked(given, &granted, &actions, slack);
            assert_eq!(asked.into_iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_purpose_is_a_connector_or_one_of_its_actions() {
        let purpose: Purpose = "github.create-issue".parse().unwrap();
        assert_eq!(purpose.action.unwrap().as_str(), "create-issue");
        assert_eq!("github".parse::<Purpose>().unwrap().action, None);
        for text in ["", "github.", ".x", "a.b.c"] {
            assert!(text.parse::<Purpose>().is_err(), "{text}");
        }
    }
}
