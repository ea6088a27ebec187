use keyward_vault::{WireLimits, WireRequest};

fn forge(limits: WireLimits, body: keyward_model::Body) -> WireRequest {
    WireRequest {
        method: http::Method::GET,
        url: url::Url::parse("https://example.com").unwrap(),
        headers: http::HeaderMap::new(),
        body,
        limits,
        private: true,
    }
}

fn main() {}
