fn main() {
    let secret = keyward_vault::Secret::from("test".to_owned());
    println!("{secret}");
}
