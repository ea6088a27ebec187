fn read(request: keyward_vault::CredentialedRequest) {
    let _ = &request.ready;
    let _ = &request.vault;
    println!("{request}");
}

fn main() {}
