//! What must not compile: a secret that is shown, a credential that is read, a request that nobody permitted.

#[test]
fn secrets_cannot_be_shown_and_requests_cannot_be_forged() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
