//! The contract with guests as Rust types, one module for each released line of `wit/`.
//!
//! The host serves the newest line; an older line that is still served gets a module of its own here, and a
//! conversion into the types of the newest beside it.

/// `keyward:connector@0.1`.
pub(crate) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "connector",
        imports: {
            // What cannot wait is not asynchronous, which saves a boxed future for each call.
            "keyward:connector/log": trappable,
            "keyward:connector/clock": trappable,
            "keyward:connector/random": trappable,
            default: async | trappable,
        },
        exports: { default: async },
        with: {
            "keyward:connector/http.connection": crate::call::Connection,
            "keyward:connector/http.exchange": crate::exchange::Exchange,
        },
    });
}
