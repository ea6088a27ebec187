fn serialise(_: &impl serde::Serialize) {}

fn main() {
    serialise(&keyward_vault::Secret::from("test".to_owned()));
}
