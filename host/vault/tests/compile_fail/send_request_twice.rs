async fn twice(request: keyward_vault::CredentialedRequest, wire: &dyn keyward_vault::Wire) {
    let _ = request.send(wire).await;
    let _ = request.send(wire).await;
}

fn main() {}
