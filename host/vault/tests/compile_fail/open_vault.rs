fn open(vault: &keyward_vault::Vault) {
    let _ = &vault.keyring;
    let _ = &vault.store;
}

fn main() {}
