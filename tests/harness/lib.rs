//! What the acceptance tests, the demo and the benches stand on: real servers on free loopback ports, a person at
//! a browser, and the `keyward` binary in a data directory of its own. Everything ends with the value that holds it.

pub mod apache;
pub mod authorization_server;
pub mod collector;
pub mod echo;
pub mod github;
pub mod keyward;
pub mod person;
pub mod process;

pub use apache::Apache;
pub use authorization_server::AuthorizationServer;
pub use collector::Collector;
pub use echo::EchoServer;
pub use github::GithubApi;
pub use keyward::{Keyward, Outcome};
