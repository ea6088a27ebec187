//! Whatever an author or an operator writes is read or refused; what is read reads back the same.
#![no_main]

use keyward_policy::{CanonicalPath, NetworkExceptions, OperatorPolicy, PathTemplate, check_endpoint_url};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(template) = text.parse::<PathTemplate>() {
        assert_eq!(template.to_string().parse::<PathTemplate>().unwrap(), template);
    }
    if let Ok(path) = text.parse::<CanonicalPath>() {
        let written = path.to_string();
        assert_eq!(written.parse::<CanonicalPath>().unwrap(), path, "{written}");
        assert!(!written.split('/').any(|segment| segment == "." || segment == ".."), "{written}");
    }
    if let Ok(url) = check_endpoint_url(text, &NetworkExceptions::default()) {
        assert_eq!(check_endpoint_url(url.as_str(), &NetworkExceptions::default()).unwrap(), url);
        assert_eq!(url.scheme(), "https");
    }
    if let Ok(policy) = toml::from_str::<OperatorPolicy>(text) {
        assert!(policy.difference(&policy).is_empty());
    }
    let _ = keyward_registry::parse_manifest(text);
});
