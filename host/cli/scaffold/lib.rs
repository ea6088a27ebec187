//! The connector {{name}}.

use keyward::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Hello {
    /// Whom to greet.
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    /// The greeting.
    text: String,
}

/// Greets somebody by name.
#[action]
fn hello(input: Hello, _connection: &Connection) -> Result<Greeting> {
    Ok(Greeting { text: format!("Hello, {}!", input.name) })
}

keyward::connector!(hello);

#[cfg(test)]
mod tests {
    use keyward::testing::FakeHost;

    use super::*;

    #[test]
    fn greets_by_name() {
        let output = FakeHost::new().call::<hello>(json!({"name": "Ada"}));
        assert_eq!(output, Ok(json!({"text": "Hello, Ada!"})));
    }
}
