//! Write connectors for Keyward.
//!
//! A connector is a set of *actions*: plain functions from a typed input to a typed output. They reach the outside
//! only through the [`Connection`] that the host hands in. The host checks each request against the manifest, adds
//! the credential and cleans the response, so there is no secret here to lose.
//!
//! ```
//! use keyward::prelude::*;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Close {
//!     /// The account that owns the repository.
//!     owner: String,
//!     /// The repository's name.
//!     repository: String,
//!     /// The issue's number.
//!     number: u64,
//! }
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Issue {
//!     number: u64,
//!     state: String,
//! }
//!
//! /// Closes an issue.
//! #[action]
//! fn close_issue(input: Close, connection: &Connection) -> Result<Issue> {
//!     connection
//!         .patch("/repos/{owner}/{repo}/issues/{number}")
//!         .path("owner", input.owner)
//!         .path("repo", input.repository)
//!         .path("number", input.number)
//!         .json(&json!({"state": "closed"}))
//!         .send()?
//!         .error_for_status()?
//!         .json()
//! }
//!
//! keyward::connector!(close_issue);
//!
//! // The same code runs in native unit tests, against requests that the test scripts.
//! # fn main() {
//! let host = keyward::testing::FakeHost::new();
//! host.on("PATCH", "/repos/o/r/issues/7").respond(200, json!({"number": 7, "state": "closed"}));
//! let input = Close { owner: "o".into(), repository: "r".into(), number: 7 };
//! assert_eq!(close_issue(input, &host.connection()).unwrap().state, "closed");
//! # }
//! ```
//!
//! The input and the output become JSON Schemas in the manifest, doc comments included. `keyward plugin build` makes
//! the component, `keyward plugin new` a project to start from.
//!
//! What this crate does *not* do: it does not check requests against the manifest. The host does, always; in unit
//! tests nobody does.

mod action;
#[cfg(all(feature = "arena", target_arch = "wasm32"))]
mod allocator;
#[cfg(any(test, all(feature = "arena", target_arch = "wasm32")))]
mod arena;
pub mod clock;
mod connection;
mod error;
#[cfg(not(target_arch = "wasm32"))]
#[path = "host_native.rs"]
mod host;
#[cfg(target_arch = "wasm32")]
#[path = "host_wasm.rs"]
mod host;
pub mod http;
pub mod log;
mod pages;
pub mod random;
mod request;
mod stream;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use action::Action;
pub use connection::{Call, Connection};
pub use error::{Error, Failure, Result, SendError, SendErrorKind, Sent};
pub use keyward_sdk_macros::action;
pub use pages::Pages;
pub use request::Request;
pub use stream::{Download, Upload};
pub use {schemars, serde, serde_json};

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use host::bindings;

/// What nearly every connector uses.
pub mod prelude {
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value, json};

    pub use crate::{Connection, Error, Failure, Result, action};
}

/// What the macros expand to; not for authors.
#[doc(hidden)]
pub mod __macro {
    pub use crate::action::{ActionResult, Entry, assert_distinct};
    #[cfg(target_arch = "wasm32")]
    pub use crate::{
        action::{Description, describe},
        host::run,
    };
}

/// Makes a component of the actions named; once in a crate.
///
/// `connector!(list_issues, issues::create_issue)` takes functions with the attribute [`action`], by path. Two
/// actions of one name do not compile.
#[macro_export]
macro_rules! connector {
    ($($action:ty),+ $(,)?) => {
        #[allow(unexpected_cfgs, reason = "`keyward plugin build` sets keyward_describe")]
        const _: () = {
            const ACTIONS: &[$crate::__macro::Entry] = &[$($crate::__macro::Entry::of::<$action>()),+];
            $crate::__macro::assert_distinct(ACTIONS);

            #[cfg(target_arch = "wasm32")]
            struct Connector;

            #[cfg(target_arch = "wasm32")]
            impl $crate::bindings::exports::keyward::connector::actions::Guest for Connector {
                fn run(
                    invocation: $crate::bindings::exports::keyward::connector::actions::Invocation,
                    connection: $crate::bindings::keyward::connector::http::Connection,
                ) -> ::core::result::Result<
                    ::std::string::String,
                    $crate::bindings::exports::keyward::connector::actions::ActionError,
                > {
                    $crate::__macro::run(ACTIONS, invocation, connection)
                }
            }

            #[cfg(target_arch = "wasm32")]
            $crate::bindings::export_connector!(Connector with_types_in $crate::bindings);

            // Only the build that is asked for the schemas has the code that makes them.
            #[cfg(all(target_arch = "wasm32", keyward_describe))]
            #[unsafe(no_mangle)]
            extern "C" fn keyward_describe() -> u64 {
                $crate::__macro::describe(&[$($crate::__macro::Description::of::<$action>),+])
            }
        };
    };
}
