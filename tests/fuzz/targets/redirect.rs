//! Nothing of a request goes along to another origin, and every chain of redirects ends.
#![no_main]

use keyward_model::{Body, GuestRequest, Target};
use keyward_policy::redirect::Journey;
use libfuzzer_sys::fuzz_target;
use url::Url;

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    hops: Vec<(u16, Vec<u8>)>,
}

fuzz_target!(|input: Input| {
    let start: Url = "https://api.example.com/v1/start".parse().unwrap();
    let headers = vec![("x-own".to_owned(), b"own".to_vec())];
    let body = || Body::Bytes("own".into());
    let request = GuestRequest {
        method: "PUT".into(),
        target: Target::Url(start.to_string()),
        query: Vec::new(),
        headers,
        body: body(),
    };
    let mut journey = Journey::new(&request);
    let (mut method, mut url, mut left, mut hops) = ("PUT".to_owned(), start.clone(), false, 0);
    for (status, location) in input.hops {
        let status = 300 + status % 12;
        let Ok(Some(hop)) = journey.follow(&method.parse().unwrap(), &url, &[], status, Some(&location)) else {
            return;
        };
        hops += 1;
        assert!(hops <= 5);
        let Target::Url(next) = &hop.request.target else { panic!("a redirect has a URL") };
        let next: Url = next.parse().unwrap();
        assert_eq!(hop.is_foreign, next.origin() != url.origin());
        assert!(url.scheme() != "https" || next.scheme() != "http", "{url} -> {next}");
        left |= hop.is_foreign;
        if left {
            assert!(hop.request.headers.is_empty() && matches!(hop.request.body, Body::Empty), "{next}");
        }
        if hop.is_foreign {
            assert!(["GET", "HEAD"].contains(&hop.request.method.as_str()));
        }
        (method, url) = (hop.request.method, next);
    }
});
