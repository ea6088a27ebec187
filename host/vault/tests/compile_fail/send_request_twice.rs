use keyward_vault::{CallSecrets, CredentialedRequest, Wire};

async fn twice(request: CredentialedRequest, wire: &dyn Wire, secrets: &CallSecrets) {
    let _ = request.send(wire).await;
    let _ = request.send(wire).await;
}

fn main() {}
