use keyward_vault::{CallSecrets, CredentialedRequest, Wire};

async fn twice(request: CredentialedRequest, wire: &dyn Wire, secrets: &CallSecrets) {
    let _ = request.send(wire, secrets).await;
    let _ = request.send(wire, secrets).await;
}

fn main() {}
