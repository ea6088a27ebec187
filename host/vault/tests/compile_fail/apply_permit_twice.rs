use keyward_policy::Permit;
use keyward_vault::{Vault, WireLimits};

async fn twice(vault: &Vault, permit: Permit, limits: WireLimits) {
    let _ = vault.apply(permit, limits).await;
    let _ = vault.apply(permit, limits).await;
}

fn main() {}
