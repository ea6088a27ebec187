//! Actions: their names, how one is run and how they are described.

use schemars::JsonSchema;
#[cfg(target_arch = "wasm32")]
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Connection, Error, Result};

/// One operation that a connector offers. The attribute [`action`](crate::action) implements it for a type that
/// has the function's name.
pub trait Action {
    /// The name in the manifest, for example `list-issues`.
    const NAME: &'static str;
    /// The function's doc comment.
    const DOC: &'static str;
    /// What it takes.
    type Input: DeserializeOwned + JsonSchema;
    /// What it brings.
    type Output: Serialize + JsonSchema;

    /// Runs it.
    fn run(input: Self::Input, connection: &Connection) -> Result<Self::Output>;
}

/// Lets `#[action]` name the output type of a function that returns `Result<Output>` by whatever alias.
pub trait ActionResult {
    /// The output.
    type Output;
}

impl<T> ActionResult for Result<T> {
    type Output = T;
}

/// An action in the table that `connector!` makes.
#[derive(Debug)]
pub struct Entry {
    name: &'static str,
    run: fn(&str, &Connection) -> Result<String>,
}

impl Entry {
    /// The entry of `A`.
    pub const fn of<A: Action>() -> Self {
        Self { name: A::NAME, run: run::<A> }
    }
}

/// Runs `A` on a JSON text.
pub(crate) fn run<A: Action>(input: &str, connection: &Connection) -> Result<String> {
    let input = serde_json::from_str(input).map_err(|error| Error::InvalidInput(error.to_string()))?;
    let output = A::run(input, connection)?;
    serde_json::to_string(&output).map_err(|error| Error::other(format!("the output is no JSON: {error}")))
}

/// Runs the action of that name; `None` where there is none.
#[cfg_attr(not(any(test, target_arch = "wasm32")), expect(dead_code, reason = "natively the tests call actions"))]
pub(crate) fn dispatch(actions: &[Entry], name: &str, input: &str, connection: &Connection) -> Option<Result<String>> {
    let entry = actions.iter().find(|entry| entry.name == name)?;
    Some((entry.run)(input, connection))
}

/// Stops the compilation where two actions have one name.
pub const fn assert_distinct(actions: &[Entry]) {
    let mut a = 0;
    while a < actions.len() {
        let mut b = a + 1;
        while b < actions.len() {
            assert!(!same(actions[a].name, actions[b].name), "two actions have the same name");
            b += 1;
        }
        a += 1;
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What `keyward plugin build` puts into the manifest about an action.
#[cfg(target_arch = "wasm32")]
#[derive(Serialize)]
pub struct Description {
    name: &'static str,
    doc: &'static str,
    input: Schema,
    output: Schema,
}

#[cfg(target_arch = "wasm32")]
impl Description {
    /// The description of `A`. The input's schema is that of what is read, the output's of what is written: a field
    /// with a default may be left out of the first and never is of the second.
    pub fn of<A: Action>() -> Self {
        let input = SchemaGenerator::from(SchemaSettings::draft2020_12().for_deserialize());
        let output = SchemaGenerator::from(SchemaSettings::draft2020_12().for_serialize());
        Self {
            name: A::NAME,
            doc: A::DOC,
            input: input.into_root_schema_for::<A::Input>(),
            output: output.into_root_schema_for::<A::Output>(),
        }
    }
}

/// The descriptions as a JSON array in linear memory: its address in the upper 32 bits, its length in the lower.
#[cfg(target_arch = "wasm32")]
pub fn describe(descriptions: &[fn() -> Description]) -> u64 {
    crate::host::log_panics();
    let descriptions: Vec<_> = descriptions.iter().map(|describe| describe()).collect();
    // The module is thrown away after this call, and the text must outlive it.
    let text = match serde_json::to_vec(&descriptions) {
        Ok(text) => text.leak(),
        Err(error) => panic!("the schemas are no JSON: {error}"),
    };
    (text.as_ptr() as u64) << 32 | text.len() as u64
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    struct Double;

    impl Action for Double {
        const NAME: &'static str = "double";
        const DOC: &'static str = "Doubles.";
        type Input = i32;
        type Output = i32;
        fn run(input: i32, _: &Connection) -> Result<i32> {
            Ok(input * 2)
        }
    }

    #[test]
    fn dispatch_runs_the_action_of_that_name_only() {
        let (actions, host) = ([Entry::of::<Double>()], FakeHost::new());
        let connection = host.connection();
        assert_eq!(dispatch(&actions, "double", "21", &connection).unwrap().unwrap(), "42");
        assert!(dispatch(&actions, "Double", "21", &connection).is_none());
    }

    #[test]
    fn input_that_does_not_fit_is_told_as_such() {
        let host = FakeHost::new();
        let error = run::<Double>("\"x\"", &host.connection()).unwrap_err();
        assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
    }

    #[test]
    #[should_panic(expected = "two actions have the same name")]
    fn two_actions_of_one_name_are_refused() {
        assert_distinct(&[Entry::of::<Double>(), Entry::of::<Double>()]);
    }
}
