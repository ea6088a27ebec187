//! What must not compile: a [`keyward_policy::Permit`] comes from the rules alone and is used once.

#[test]
fn permit_cannot_be_forged_copied_or_used_twice() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
