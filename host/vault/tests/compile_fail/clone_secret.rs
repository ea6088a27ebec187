fn main() {
    let secret = keyward_vault::Secret::from("test".to_owned());
    let _copy: keyward_vault::Secret = secret.clone();
}
