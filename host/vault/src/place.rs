//! Puts a credential into a request, at the position that the reviewed manifest names.
//!
//! Whatever stands there is taken out first. What is put in is never looked at again for anything to
//! replace, and holds no control character, so it cannot end a header or begin another.

mod fill;
mod hmac;
mod jwt;
mod sign;

use std::{ops::Range, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE},
};
use keyward_model::{
    Body, Reason, SendError, SendErrorKind,
    manifest::{PATH_MARK, Part, Placement},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use self::fill::Filling;
use crate::{
    credential::{BasicSecret, Fields, Material, to_json},
    redact::SHORTEST,
    secret::Secret,
};

/// Everything but the unreserved characters of RFC 3986 section 2.3.
pub(crate) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What went into the request: the secrets and their rendered forms, to be searched in what comes back.
pub(crate) type Placed = Vec<Arc<Zeroizing<Vec<u8>>>>;

/// A request while the credential goes in.
pub(crate) struct Draft {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Payload,
    /// The bytes of the URL as text that are [`PATH_MARK`], as the permit has them.
    pub(crate) path_mark: Option<Range<usize>>,
}

/// What the body is to those who place something in it.
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// It is the guest's, chunk by chunk.
    Stream,
}

impl Payload {
    pub(crate) fn of(body: &Body) -> Self {
        match body {
            Body::Empty => Self::Empty,
            Body::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Body::Stream { .. } => Self::Stream,
        }
    }

    /// The body to send: this one, or where it is streamed, the `guests`.
    pub(crate) fn or(self, guests: Body) -> Body {
        match self {
            Self::Empty => Body::Empty,
            Self::Bytes(bytes) => Body::Bytes(bytes),
            Self::Stream => guests,
        }
    }
}

/// A value on its way to its place.
struct Value<'a> {
    name: &'a str,
    secret: &'a Secret,
}

/// Puts the parts of the credential where `placements` say. What they ask of the request (a type of body that one can
/// be placed in, a mark in the path) the permit has seen to. What signs the request comes last, and its method and the
/// time go into it.
///
/// # Errors
/// [`Reason::CredentialUnplaceable`] where the connection holds another kind of credential than the
/// connector asks for, or one with characters that cannot stand there.
pub(crate) fn place(
    placements: &[Placement],
    material: &Material,
    fields: &Fields,
    (method, now): (&Method, OffsetDateTime),
    draft: &mut Draft,
) -> Result<Placed, SendError> {
    let mut placed = Placed::new();
    let (mut cookies, mut form, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for placement in placements {
        let mut part = |part: &Part| part_of(part, material, fields, &mut placed);
        match placement {
            Placement::Header { name, prefix, part: of } => {
                let secret = part(of)?;
                let value = Zeroizing::new([prefix.as_bytes(), secret.expose()].concat());
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| unplaceable(format!("the manifest's header name {name:?} is not one")))?;
                set_header(&mut draft.headers, name, &value)?;
            }
            Placement::Query { name, part: of } => {
                let text = part(of)?.expose_str().ok_or_else(|| unplaceable("the credential is not text"))?;
                set_query(draft, name, text);
            }
            Placement::Basic => placed.extend(set_basic(material, &mut draft.headers)?),
            // What answers a challenge is made of what is ready, by who sends it.
            Placement::Digest { .. } => {
                let Material::Basic { username, password, secret } = material else {
                    let message = "the connector asks for a user name and a password, and the connection holds none";
                    return Err(unplaceable(message));
                };
                placed.extend(secret.parts(username, password).into_iter().map(|part| copy(part.expose())));
            }
            // Below, when everything else is in its place.
            Placement::AwsSigv4 { .. } | Placement::Hmac(_) | Placement::Jwt(_) => {}
            Placement::Path { part: of } => {
                let secret = part(of)?;
                set_path(draft, secret)?;
            }
            Placement::Cookie { name, part: of } => cookies.push(Value { name, secret: part(of)? }),
            Placement::Form { name, part: of } => form.push(Value { name, secret: part(of)? }),
            Placement::Json { name, part: of } => members.push(Value { name, secret: part(of)? }),
        }
    }
    if !cookies.is_empty() {
        set_cookies(&cookies, &mut draft.headers)?;
    }
    if !form.is_empty() {
        set_form(&form, draft)?;
    }
    if !members.is_empty() {
        set_members(&members, draft)?;
    }
    let filling = || Filling::new(material, fields, (method, now));
    let (last, before): (Vec<_>, Vec<_>) = placements.iter().partition(|placement| keyward_policy::signs(placement));
    for placement in before.into_iter().chain(last) {
        match placement {
            Placement::AwsSigv4 { region, service } => {
                let Material::Aws(keys) = material else {
                    let message = "the connector signs with an access key of AWS, and the connection has none";
                    return Err(unplaceable(message));
                };
                placed.extend(sign::sign_aws((region, service), keys, method, now, draft)?);
            }
            Placement::Hmac(hmac) => placed.extend(hmac::sign(hmac, &filling()?, draft)?),
            Placement::Jwt(jwt) => placed.extend(jwt::mint(jwt, &filling()?, draft)?),
            _ => {}
        }
    }
    Ok(placed)
}

/// A part of what the connection holds. What of it is secret is noted in `placed`.
fn part_of<'a>(
    part: &Part,
    material: &'a Material,
    fields: &'a Fields,
    placed: &mut Placed,
) -> Result<&'a Secret, SendError> {
    let (secret, is_secret) = match (part, material) {
        (Part::Token, Material::Token(token)) => (token, true),
        (Part::Username, Material::Basic { username, password, secret }) => {
            (username, secret.has(username, username, password))
        }
        (Part::Password, Material::Basic { username, password, secret }) => {
            (password, secret.has(password, username, password))
        }
        (Part::Field(name), _) => match fields.get(name) {
            Some(field) => (&field.value, field.is_secret),
            None => {
                let message = format!("the connector asks for the field {name} of the connection, which has none");
                return Err(unplaceable(message)
                    .hint(format!("connect again with --field {name}=<value> or --secret-field {name}=<file>")));
            }
        },
        (Part::Username | Part::Password, _) => {
            return Err(unplaceable("the connector asks for a user name or a password, and the connection holds none"));
        }
        (Part::Token, _) => {
            return Err(unplaceable(
                "the connector asks for a token, and the connection holds another kind of credential",
            ));
        }
    };
    check(part.as_str(), secret.expose())?;
    if is_secret {
        placed.push(copy(secret.expose()));
    }
    Ok(secret)
}

/// User name and password by RFC 7617.
fn set_basic(material: &Material, headers: &mut HeaderMap) -> Result<Placed, SendError> {
    let Material::Basic { username, password, secret } = material else {
        return Err(unplaceable("the connector asks for a user name and a password, and the connection holds none"));
    };
    let parts = secret.parts(username, password).into_iter().map(Secret::expose);
    let (username, password) = (username.expose(), password.expose());
    check("user name", username)?;
    check("password", password)?;
    if username.contains(&b':') {
        return Err(unplaceable("the user name holds a colon, which HTTP Basic cannot carry"));
    }
    let pair = Zeroizing::new([username, b":", password].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    let value = Zeroizing::new([b"Basic ", encoded.as_bytes()].concat());
    set_header(headers, AUTHORIZATION, &value)?;
    let parts = parts.chain([&**pair, encoded.as_bytes()]);
    Ok(parts.map(copy).collect())
}

impl BasicSecret {
    /// The parts that are secret.
    pub(crate) fn parts<'a>(self, username: &'a Secret, password: &'a Secret) -> Vec<&'a Secret> {
        match self {
            // Where the password is too short to be one (`x`, or nothing), the user name is the key.
            Self::Password if password.expose().len() < SHORTEST => vec![username],
            Self::Password => vec![password],
            Self::Username => vec![username],
            Self::Both => vec![username, password],
        }
    }

    /// Whether this one is.
    fn has(self, part: &Secret, username: &Secret, password: &Secret) -> bool {
        self.parts(username, password).iter().any(|secret| std::ptr::eq(*secret, part))
    }
}

pub(crate) fn copy(secret: &[u8]) -> Arc<Zeroizing<Vec<u8>>> {
    Arc::new(Zeroizing::new(secret.to_vec()))
}

pub(crate) fn unplaceable(message: impl Into<String>) -> SendError {
    SendError::new(SendErrorKind::ReconnectRequired, Reason::CredentialUnplaceable, message)
        .hint("connect again with a credential of the kind that the connector asks for, without line ends")
}

/// Refuses control characters (RFC 7617 section 2, RFC 9110 section 5.5).
pub(crate) fn check(what: &str, value: &[u8]) -> Result<(), SendError> {
    match value.iter().any(u8::is_ascii_control) {
        true => Err(unplaceable(format!("the {what} holds a control character"))),
        false => Ok(()),
    }
}

pub(crate) fn set_header(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) -> Result<(), SendError> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| unplaceable("the credential holds characters that a header cannot carry"))?;
    // Keeps it out of `Debug` output and of HTTP/2's compression table.
    value.set_sensitive(true);
    headers.remove(&name);
    headers.insert(name, value);
    Ok(())
}

fn set_query(draft: &mut Draft, name: &str, value: &str) {
    // What the guest sent otherwise stays as it was matched, byte by byte.
    let is_other = |pair: &&str| {
        let pair_name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        !pair.is_empty() && *percent_decode_str(&pair_name).decode_utf8_lossy() != *name
    };
    let before = draft.url.query().unwrap_or_default();
    // All the room at once: a string that grows leaves a copy behind.
    let mut query = Zeroizing::new(String::with_capacity(before.len() + 3 * (name.len() + value.len()) + 2));
    for pair in before.split('&').filter(is_other) {
        query.push_str(pair);
        query.push('&');
    }
    query.extend(utf8_percent_encode(name, UNRESERVED));
    query.push('=');
    query.extend(utf8_percent_encode(value, UNRESERVED));
    draft.url.set_query(Some(&query));
}

/// Puts the secret in the place of the mark: one segment, or a part of one, of unreserved characters and colons. It can
/// neither end the segment nor make dots of it.
fn set_path(draft: &mut Draft, secret: &Secret) -> Result<(), SendError> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(byte);
    let value = secret.expose_str().filter(|text| !text.is_empty() && text.as_bytes().iter().all(is_plain));
    let value = value.filter(|text| text.bytes().any(|byte| byte != b'.'));
    let Some(value) = value else {
        return Err(unplaceable("the credential holds characters that a segment of a path cannot carry"));
    };
    let text = draft.url.as_str();
    let mark = draft.path_mark.take();
    let parts = mark.and_then(|mark| Some((text.get(..mark.start)?, text.get(mark.clone())?, text.get(mark.end..)?)));
    let Some((before, _, after)) = parts.filter(|(_, mark, _)| percent_decode_str(mark).eq(PATH_MARK.bytes())) else {
        return Err(unplaceable("the path has no place for the credential"));
    };
    let text = Zeroizing::new([before, value, after].concat());
    match Url::parse(&text) {
        Ok(url) if url.as_str() == *text => draft.url = url,
        _ => return Err(unplaceable("the credential makes another path of the one that was asked for")),
    }
    Ok(())
}

/// One header with all of them, by RFC 6265 section 4.2.1.
fn set_cookies(cookies: &[Value<'_>], headers: &mut HeaderMap) -> Result<(), SendError> {
    let is_octet = |byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(byte);
    let room = cookies.iter().map(|cookie| cookie.name.len() + cookie.secret.expose().len() + 3).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    for Value { name, secret } in cookies {
        if !secret.expose().iter().all(is_octet) {
            return Err(unplaceable("the credential holds characters that a cookie cannot carry"));
        }
        if !text.is_empty() {
            text.extend_from_slice(b"; ");
        }
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(secret.expose());
    }
    set_header(headers, COOKIE, &text)
}

/// Before what the guest sent, so that a broken encoding at its end cannot swallow them.
fn set_form(fields: &[Value<'_>], draft: &mut Draft) -> Result<(), SendError> {
    let guests = guests_body(draft, "application/x-www-form-urlencoded")?;
    let room: usize = fields.iter().map(|field| 3 * (field.name.len() + field.secret.expose().len()) + 2).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(room + guests.len()));
    for Value { name, secret } in fields {
        if !text.is_empty() {
            text.push(b'&');
        }
        text.extend(utf8_percent_encode(name, UNRESERVED).flat_map(str::bytes));
        text.push(b'=');
        text.extend(percent_encode(secret.expose(), UNRESERVED).flat_map(str::bytes));
    }
    if !guests.is_empty() {
        text.push(b'&');
        text.extend_from_slice(&guests);
    }
    draft.body = Payload::Bytes(Bytes::from_owner(text));
    Ok(())
}

/// As the first members of the object that the guest sent, which otherwise stays as it is, byte by byte.
fn set_members(members: &[Value<'_>], draft: &mut Draft) -> Result<(), SendError> {
    let guests = guests_body(draft, "application/json")?;
    let guests: &[u8] = if guests.is_empty() { b"{}" } else { &guests };
    let Some(begin) = guests.iter().position(|byte| *byte == b'{') else {
        return Err(unplaceable("the body is no JSON object"));
    };
    let (begin, rest) = guests.split_at(begin + 1);
    let not_text = |_| unplaceable("the credential is not text");
    let mut rendered = Vec::with_capacity(members.len());
    for Value { name, secret } in members {
        let value = secret.expose_str().ok_or_else(|| unplaceable("the credential is not text"))?;
        rendered.push((to_json(name).map_err(not_text)?, to_json(&value).map_err(not_text)?));
    }
    let room: usize = rendered.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(guests.len() + room));
    text.extend_from_slice(begin);
    for (index, (name, value)) in rendered.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(name);
        text.push(b':');
        text.extend_from_slice(value);
    }
    if !rest.trim_ascii_start().starts_with(b"}") {
        text.push(b',');
    }
    text.extend_from_slice(rest);
    draft.body = Payload::Bytes(Bytes::from_owner(text));
    Ok(())
}

/// What the guest sent as body. Where that is nothing, the type is set that it will have.
fn guests_body(draft: &mut Draft, content_type: &'static str) -> Result<Bytes, SendError> {
    match &draft.body {
        Payload::Bytes(bytes) if !bytes.is_empty() => Ok(bytes.clone()),
        Payload::Empty | Payload::Bytes(_) => {
            draft.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
            Ok(Bytes::new())
        }
        Payload::Stream => Err(unplaceable("the body is streamed, and the credential goes into it")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::credential::FieldValue;

    fn token(text: &str) -> Material {
        Material::Token(Secret::from(text.to_owned()))
    }

    fn basic(username: &str, password: &str) -> Material {
        basic_with(username, password, BasicSecret::Password)
    }

    fn basic_with(username: &str, password: &str, secret: BasicSecret) -> Material {
        let [username, password] = [username, password].map(|text| Secret::from(text.to_owned()));
        Material::Basic { username, password, secret }
    }

    fn header(name: &str, prefix: &str) -> Placement {
        Placement::Header { name: name.to_owned(), prefix: prefix.to_owned(), part: Part::Token }
    }

    fn query(name: &str) -> Placement {
        Placement::Query { name: name.to_owned(), part: Part::Token }
    }

    fn form(name: &str, part: &str) -> Placement {
        Placement::Form { name: name.to_owned(), part: part.to_owned().into() }
    }

    fn json(name: &str, part: &str) -> Placement {
        Placement::Json { name: name.to_owned(), part: part.to_owned().into() }
    }

    fn cookie(name: &str, part: &str) -> Placement {
        Placement::Cookie { name: name.to_owned(), part: part.to_owned().into() }
    }

    /// An open and a secret one.
    fn fields() -> Fields {
        let open = FieldValue::Open("open-client-id".to_owned());
        let secret = FieldValue::Secret(Secret::from("canary-developer".to_owned()));
        Fields::from([("client-id".to_owned(), open.into()), ("developer-token".to_owned(), secret.into())])
    }

    fn draft(url: &str) -> Draft {
        let url = Url::parse(url).unwrap();
        let mark = url.as_str().find("%7Bcredential%7D").map(|start| start..start + "%7Bcredential%7D".len());
        Draft { url, headers: HeaderMap::new(), body: Payload::Empty, path_mark: mark }
    }

    fn placed(placement: &Placement, material: &Material, url: &str) -> Result<(Url, HeaderMap, Placed), SendError> {
        let mut draft = draft(url);
        draft.headers.insert("authorization", "Bearer guest".parse().unwrap());
        draft.headers.append("x-api-key", "guest".parse().unwrap());
        draft.headers.append("x-api-key", "guest too".parse().unwrap());
        let secrets = place(
            std::slice::from_ref(placement),
            material,
            &fields(),
            (&Method::GET, OffsetDateTime::UNIX_EPOCH),
            &mut draft,
        )?;
        Ok((draft.url, draft.headers, secrets))
    }

    fn shown(secrets: &Placed) -> Vec<&str> {
        secrets.iter().map(|secret| std::str::from_utf8(secret).unwrap()).collect()
    }

    #[test]
    fn header_takes_the_place_of_whatever_stood_there_and_is_sensitive() {
        let (_, headers, secrets) =
            placed(&header("X-Api-Key", "Key "), &token("canary-token"), "https://x.test/").unwrap();
        let values: Vec<_> = headers.get_all("x-api-key").iter().collect();
        assert_eq!(values, ["Key canary-token"]);
        assert!(values[0].is_sensitive());
        assert_eq!(secrets[0].as_slice(), b"canary-token");
    }

    #[test]
    fn query_takes_the_place_of_every_spelling_and_leaves_the_rest_as_it_was() {
        for (before, after) in [
            ("https://x.test/p", "https://x.test/p?key=canary%2F%20%26%2Btoken"),
            ("https://x.test/p?a=%2f+b&&key=guest", "https://x.test/p?a=%2f+b&key=canary%2F%20%26%2Btoken"),
            ("https://x.test/p?k%65y=guest&keys=1&key", "https://x.test/p?keys=1&key=canary%2F%20%26%2Btoken"),
        ] {
            let (url, _, _) = placed(&query("key"), &token("canary/ &+token"), before).unwrap();
            assert_eq!(url.as_str(), after);
        }
    }

    #[test]
    fn basic_is_rendered_as_rfc_7617_says_and_every_form_is_a_secret() {
        let (_, headers, secrets) =
            placed(&Placement::Basic, &basic("Aladdin", "open sesame"), "https://x.test/").unwrap();
        assert_eq!(headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.as_slice()).collect();
        let expected: [&[u8]; 3] = [b"open sesame", b"Aladdin:open sesame", b"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="];
        assert_eq!(secrets, expected);
    }

    #[test]
    fn user_name_is_the_secret_where_the_password_is_too_short_to_be_one() {
        let (_, _, secrets) = placed(&Placement::Basic, &basic("canary-key", "x"), "https://x.test/").unwrap();
        assert_eq!(secrets[0].as_slice(), b"canary-key");
    }

    #[test]
    fn part_that_is_secret_is_searched_and_the_other_is_not() {
        for (material, expected) in [
            (basic_with("canary-key", "api_token", BasicSecret::Username), &["canary-key"][..]),
            (basic_with("canary-key", "", BasicSecret::Username), &["canary-key"]),
            (basic_with("canary-name", "canary-word", BasicSecret::Password), &["canary-word"]),
            (basic_with("canary-name", "canary-word", BasicSecret::Both), &["canary-name", "canary-word"]),
        ] {
            let (_, _, secrets) = placed(&Placement::Basic, &material, "https://x.test/").unwrap();
            // Behind them are the two together and what they are encoded to.
            let parts: Vec<_> = secrets[..secrets.len() - 2].iter().map(|secret| secret.as_slice()).collect();
            assert_eq!(parts, expected.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn credential_that_cannot_stand_there_is_refused_without_showing_it() {
        for (placement, material) in [
            (header("authorization", "Bearer "), token("canary\r\nX-Evil: 1")),
            (header("authorization", "Bearer "), token("canary\n")),
            (header("authorization", "Bearer "), token("canary\0token")),
            (header("no such header", ""), token("canary-token")),
            (cookie("key", "username"), token("canary-token")),
            (json("key", "canary"), token("canary-token")),
            (Placement::AwsSigv4 { region: "r".to_owned(), service: "s".to_owned() }, token("canary-token")),
            (header("authorization", "Bearer "), basic("canary", "canary-password")),
            (query("key"), token("canary\ttoken")),
            (query("key"), basic("canary", "canary-password")),
            (query("key"), Material::Token(Secret::from(vec![0xff; 9]))),
            (Placement::Basic, token("canary-token")),
            (Placement::Digest { weak: true }, token("canary-token")),
            (Placement::Basic, basic("can:ary", "canary-password")),
            (Placement::Basic, basic("canary", "canary\x7fpassword")),
        ] {
            let error = placed(&placement, &material, "https://x.test/").unwrap_err();
            assert_eq!(error.reason, Reason::CredentialUnplaceable, "{placement:?}");
            assert!(!error.message.replace("field canary", "").contains("canary"), "{}", error.message);
        }
    }

    #[test]
    fn each_part_goes_to_its_place_and_what_is_secret_of_them_is_searched() {
        let mut draft = draft("https://x.test/p");
        let id = Placement::Header {
            name: "Client-Id".to_owned(),
            prefix: String::new(),
            part: "client-id".to_owned().into(),
        };
        let developer = Placement::Query { name: "dev".to_owned(), part: "developer-token".to_owned().into() };
        let all = [header("authorization", "Bearer "), id, developer];
        let secrets =
            place(&all, &token("canary-token"), &fields(), (&Method::GET, OffsetDateTime::UNIX_EPOCH), &mut draft)
                .unwrap();
        assert_eq!(draft.headers["authorization"], "Bearer canary-token");
        assert_eq!(draft.headers["client-id"], "open-client-id");
        assert_eq!(draft.url.as_str(), "https://x.test/p?dev=canary-developer");
        assert_eq!(shown(&secrets), ["canary-token", "canary-developer"]);

        let pair = [form("user", "username"), form("pass", "password")];
        let material = basic("open-name", "canary-password");
        let secrets =
            place(&pair, &material, &fields(), (&Method::GET, OffsetDateTime::UNIX_EPOCH), &mut draft).unwrap();
        assert_eq!(shown(&secrets), ["canary-password"]);
    }

    #[test]
    fn path_has_the_credential_in_the_place_of_the_mark_alone() {
        let url = "https://x.test/bot%7Bcredential%7D/%7Bcredential%7D?q=%7Bcredential%7D";
        let path = Placement::Path { part: Part::Token };
        let (url, _, secrets) = placed(&path, &token("110201543:AAHdqTcvCH1_w"), url).unwrap();
        assert_eq!(url.as_str(), "https://x.test/bot110201543:AAHdqTcvCH1_w/%7Bcredential%7D?q=%7Bcredential%7D");
        assert_eq!(shown(&secrets), ["110201543:AAHdqTcvCH1_w"]);
        for value in
            ["", ".", "..", "canary/../x", "canary%2Fx", "canary?x", "canary#x", "canary;x", "canary x", "canaryé"]
        {
            let error = placed(&path, &token(value), "https://x.test/%7Bcredential%7D/x").unwrap_err();
            assert_eq!(error.reason, Reason::CredentialUnplaceable, "{value}");
        }
        assert!(placed(&path, &token("canary-token"), "https://x.test/x").is_err());
    }

    #[test]
    fn cookies_are_one_header() {
        let mut draft = draft("https://x.test/p");
        draft.headers.insert("cookie", "guest=1".parse().unwrap());
        let all = [cookie("session", "token"), cookie("app", "client-id")];
        place(&all, &token("canary=token"), &fields(), (&Method::GET, OffsetDateTime::UNIX_EPOCH), &mut draft).unwrap();
        let values: Vec<_> = draft.headers.get_all("cookie").iter().collect();
        assert_eq!(values, ["session=canary=token; app=open-client-id"]);
        assert!(values[0].is_sensitive());
        for value in ["canary;x=1", "canary, x", "canary x", "canary\"", "canary\\x", "canaryé"] {
            assert!(placed(&all[0], &token(value), "https://x.test/").is_err(), "{value}");
        }
    }

    #[test]
    fn fields_stand_before_what_the_guest_sent_which_stays_as_it_is() {
        for (places, before, after) in [
            (vec![form("key", "token")], None, "key=canary%22%20token"),
            (
                vec![form("key", "token"), form("id", "client-id")],
                Some("a=%2f+b&&c=%"),
                "key=canary%22%20token&id=open-client-id&a=%2f+b&&c=%",
            ),
            (vec![json("key", "token")], None, r#"{"key":"canary\" token"}"#),
            (vec![json("key", "token")], Some(" { } "), r#" {"key":"canary\" token" } "#),
            (
                vec![json("key", "token"), json("id", "client-id")],
                Some(r#"{ "a": 1.10 }"#),
                r#"{"key":"canary\" token","id":"open-client-id", "a": 1.10 }"#,
            ),
        ] {
            let mut draft = draft("https://x.test/p");
            if let Some(before) = before {
                draft.body = Payload::Bytes(before.into());
            }
            place(&places, &token("canary\" token"), &fields(), (&Method::GET, OffsetDateTime::UNIX_EPOCH), &mut draft)
                .unwrap();
            let Body::Bytes(bytes) = draft.body.or(Body::Empty) else { panic!("no bytes") };
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), after);
            // A body of the guest's has its own.
            assert_eq!(draft.headers.contains_key("content-type"), before.is_none());
        }
        let mut streamed = Draft { body: Payload::Stream, ..draft("https://x.test/p") };
        assert!(
            place(
                &[json("key", "token")],
                &token("canary-token"),
                &fields(),
                (&Method::GET, OffsetDateTime::UNIX_EPOCH),
                &mut streamed
            )
            .is_err()
        );
    }
}
