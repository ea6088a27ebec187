fn main() {
    let [one, other] = ["one", "other"].map(|text| keyward_vault::Secret::from(text.to_owned()));
    let _ = one == other;
}
