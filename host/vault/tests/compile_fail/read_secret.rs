fn main() {
    let secret = keyward_vault::Secret::from("test".to_owned());
    let _ = secret.expose();
    let _ = secret.0;
}
