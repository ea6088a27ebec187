//! What an author may write in a manifest, and what it allows. Only documentation.
//!
//! | in `connector.toml` | what may stand there | examples |
//! |---|---|---|
//! | `endpoints.<name>.url` | `https://`, a host, a port where it is not 443, a base path. No user information, query or fragment. `http://` or an address for a host is used only where the operator excepts it ([`crate::NetworkExceptions`]) | `https://api.github.com`, `https://graph.microsoft.com/v1.0` |
//! | its host | a whole name, or `*.` and a name of at least two labels for every name below it. Letter case, a trailing dot and other scripts are folded. Such an endpoint is reached by absolute URLs alone | `api.example.com`, `*.sharepoint.com` |
//! | `credential` | one place or a list of at most eight, no two of them the same. `in = "header"` with `name` and `prefix`; `"query"`, `"cookie"`, `"form"` and `"json"` with `name`; `"path"`; `"basic"`; `"aws-sigv4"` with `region` and `service`; `"hmac"` and `"jwt"`, see below; `"digest"` with `weak`, which accepts MD5 too. One at most signs the request. No header that the host keeps for itself but `authorization` and `cookie` | `{ in = "header", name = "authorization", prefix = "Bearer " }` |
//! | its `part` | `token` (the default), `username`, `password`, or the name of a field of the connection; not with `"basic"` and `"digest"` | `{ in = "header", name = "client-id", part = "client-id" }` |
//! | `endpoints.<name>.credential` | `true` (the default) or `false`: whether requests there carry the credential | `false` for signed downloads on `*.example-files.com` |
//! | `requests[].method` | a word in capitals, but not `CONNECT`, `TRACE`, `TRACK`. `GET` does not include `HEAD` | `GET`, `PATCH`, `PROPFIND` |
//! | `requests[].path` | a template, see below | `/repos/{owner}/{repo}/issues` |
//! | `requests[].query` | names as they are when decoded, or `*` for any. `*` leaves out `access_token` and `_method`, which must be listed. The credential's own name may not be listed | `["page", "per_page"]` |
//! | `requests[].redirects` | `true` or `false` (the default): whether the host follows redirects, see [`crate::redirect`] | `true` |
//! | `requests[].once` | `true` or `false` (the default): whether the host never sends it again by itself | `true` |
//! | `scopes` | sets of scope tokens (RFC 6749 section 3.3); one whole set must be granted | `[["repo"], ["public_repo"]]` |
//!
//! # Path templates
//! A template is compared with the path below the base path, segment by segment, in decoded form
//! ([`crate::CanonicalPath`]). It stands for the whole path: `/api` is neither `/apiary` nor `/api/` nor `/api/x`.
//!
//! | segment | stands for |
//! |---|---|
//! | `issues` | this text, in any encoding; letter case counts |
//! | `{name}` or `*` | one segment that is not empty and has no encoded slash |
//! | `{name}:append`, `users('{id}')` | such a segment with fixed text after or before the variable |
//! | `{name%2F}` | the same as `{name}`, but encoded slashes may be in it |
//! | `{name+}` or `**` | one or more segments, not all of them empty; once in a template, with or without fixed text |
//! | `{credential}`, `bot{credential}` | where the host puts the credential, with `in = "path"` |
//! | nothing, after a `/` at the end | the path that ends in a slash |
//!
//! ```
//! use keyward_policy::{CanonicalPath, PathTemplate};
//! let allows = |template: &str, path: &str| {
//!     let template: PathTemplate = template.parse().unwrap();
//!     path.parse::<CanonicalPath>().is_ok_and(|path| template.matches(&path))
//! };
//! assert!(allows("/repos/{owner}/{repo}/issues", "/repos/rust-lang/rust/issues"));
//! assert!(!allows("/repos/{owner}/{repo}/issues", "/repos/rust-lang/rust/issues/1"));
//! assert!(!allows("/repos/{owner}/{repo}/issues", "/repos//rust/issues"));
//! assert!(allows("/spreadsheets/{id}/values/{range}:append", "/spreadsheets/x/values/A1:B2:append"));
//! assert!(allows("/drive/root:/{path+}:/content", "/drive/root:/Reports/2026.xlsx:/content"));
//! assert!(allows("/projects/{id%2F}/issues", "/projects/group%2Fproject/issues"));
//! assert!(!allows("/projects/{id}/issues", "/projects/group%2Fproject/issues"));
//! assert!(!allows("/public/{rest+}", "/public/../secret"));
//! ```
//!
//! Where the template has `{credential}` the guest writes the same, encoded (`bot%7Bcredential%7D`); the host fills it
//! there and nowhere else. Every path at an endpoint that carries the credential has it when the credential goes into the
//! path, and no other path has it.
//!
//! Beware: `{name}` takes a colon as any other character, so `POST /values/{range}` allows `/values/A1:clear` too.
//! Where an API has verbs after a colon, give the actions that need one a template with it, and see that no other
//! template of the same method ends in a bare variable at that place.
//!
//! # Signatures
//! `in = "hmac"` signs the request last, as it goes on the wire: `hash` is `sha1`, `sha256`, `sha384` or `sha512`;
//! `part` is the key, written as `key_encoding` says (`text`, `hex`, `base64`, `whsec`); `message` is a template of what
//! is signed; `encoding` is how the signature is written (`hex`, `base64`, `base64url`); `headers` and `query` have
//! templates by name, and the signature stands in one of them at least. Those without it are set before the message is
//! filled, so `{query}` and `{header:<name>}` have them too.
//!
//! | placeholder | stands for | in `message` | in `headers` and `query` |
//! |---|---|---|---|
//! | `{method}`, `{host}`, `{path}`, `{query}`, `{path-and-query}`, `{url}` | the request, in its encoded form; the host with a port that is not the scheme's own | yes | no |
//! | `{body}` | its bytes; it cannot be streamed then, nor where a digest of it is needed | yes | no |
//! | `{body-sha256-hex}`, `{body-sha256-base64}`, `{body-sha512-hex}`, `{body-sha512-base64}` | its digest | yes | yes |
//! | `{timestamp}`, `{timestamp-ms}`, `{timestamp-rfc3339}`, `{timestamp-rfc3339-ms}`, `{timestamp-http}` | one moment, in UTC: seconds or milliseconds since 1970, or as in RFC 3339 or RFC 9110 | yes | yes |
//! | `{nonce}` | 128 random bits in hexadecimal digits, the same in all templates of one request | yes | yes |
//! | `{part:<name>}` | a part of the credential, named as in `part` | yes | yes |
//! | `{header:<name>}` | a header's values with a comma and a space between them, or nothing; none that the host or the client sets afterwards | yes | no |
//! | `{signature}` | the signature | no | yes |
//! | `{{`, `}}` | one brace | yes | yes |
//!
//! ```
//! use keyward_policy::{Use, ValueTemplate};
//! assert!(ValueTemplate::parse("{timestamp}{method}{path-and-query}{body}", Use::Message).is_ok());
//! assert!(ValueTemplate::parse("App {part:api-key}:{signature}", Use::Value).is_ok());
//! assert!(ValueTemplate::parse("{body}", Use::Value).is_err());
//! ```
//!
//! `in = "jwt"` mints a token for each request: `name` and `prefix` as of a header; `algorithm` is one of `HS256` to
//! `HS512`, `RS256` to `RS512`, `PS256` to `PS512`, `ES256`, `ES384`, `EdDSA`; `lifetime_seconds` is 1 to 3,600 and
//! `backdate_seconds` 0 to 300; `not_before` adds `nbf`; `key_id` is a template with `{part:<name>}`; `claims` has at
//! most 32 values by name, none of them `iat`, `exp` or `nbf`, whose texts are templates with everything of the table
//! but `{body}`, `{timestamp...}`, `{header:<name>}` and `{signature}`. `part` and `key_encoding` are for `HS` alone.
//!
//! # Hosts
//! ```
//! use keyward_policy::{NetworkExceptions, check_endpoint_url};
//! let reads = |url: &str| check_endpoint_url(url, &NetworkExceptions::default()).map(|url| url.to_string());
//! assert_eq!(reads("https://API.example.com.:443/v1/").unwrap(), "https://api.example.com/v1");
//! // As it is dialled: a letter of another script can look like one of a known host.
//! assert_eq!(reads("https://xn--bcher-kva.example").unwrap(), "https://xn--bcher-kva.example/");
//! for wrong in ["https://bücher.example", "https://user@api.example.com", "https://api.example.com/?a=b", "https://api.example.com/#x",
//!     "ftp://api.example.com", "https://api.example.com:99999", "https://api.*", "https://127.1", "https://[::1"] {
//!     assert!(reads(wrong).is_err(), "{wrong}");
//! }
//! ```
