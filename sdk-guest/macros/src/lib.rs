//! The attribute `#[action]` of the Keyward SDK, which reaches authors as `keyward::action`.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{Attribute, Error, Expr, ExprLit, FnArg, ItemFn, Lit, LitStr, Meta, ReturnType, Type, spanned::Spanned};

/// Makes a function an action.
///
/// The function takes its input by value and, where it sends requests, a `&Connection`; it returns
/// `keyward::Result<Output>`. The input is `Deserialize` and `JsonSchema`, the output `Serialize` and `JsonSchema`;
/// an action without input takes a struct without fields (`struct Nothing {}`).
///
/// The action's name in `connector.toml` is the function's in kebab case, `list_issues` as `list-issues`;
/// `#[action(name = "issues")]` gives another one. The first paragraph of the doc comment describes the action to
/// people where the manifest has no description of it.
///
/// Beside the function there is then a type of the same name, which implements `keyward::Action`: what
/// `connector!` and `FakeHost::call` take.
#[proc_macro_attribute]
pub fn action(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = syn::parse_macro_input!(item as ItemFn);
    let mut name = None;
    let arguments = syn::parse::Parser::parse(
        |input: syn::parse::ParseStream<'_>| {
            if input.is_empty() {
                return Ok(());
            }
            let key: syn::Ident = input.parse()?;
            if key != "name" {
                return Err(Error::new(key.span(), "the only argument is `name = \"...\"`"));
            }
            input.parse::<syn::Token![=]>()?;
            name = Some(input.parse::<LitStr>()?);
            Ok(())
        },
        arguments,
    );
    // The function itself always comes out, so that one fault here does not bring a second "not found" there.
    match arguments.and_then(|()| expand(&function, name)) {
        Ok(description) => quote!(#function #description).into(),
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#function #error).into()
        }
    }
}

fn expand(function: &ItemFn, name: Option<LitStr>) -> Result<Tokens, Error> {
    let signature = &function.sig;
    if let Some(asyncness) = &signature.asyncness {
        return Err(Error::new(asyncness.span(), "an action is a plain function: requests wait by themselves"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "an action cannot be generic"));
    }
    let mut inputs = signature.inputs.iter();
    let input = match inputs.next() {
        Some(FnArg::Typed(input)) if matches!(*input.ty, Type::Reference(_)) => {
            let hint = "an action takes its input first, by value; one without input takes a struct without fields";
            return Err(Error::new(input.ty.span(), hint));
        }
        Some(FnArg::Typed(input)) => &input.ty,
        Some(FnArg::Receiver(receiver)) => return Err(Error::new(receiver.span(), "an action has no `self`")),
        None => return Err(Error::new(signature.span(), "an action takes its input: `fn name(input: Input, ...)`")),
    };
    let connection = inputs.next().map(|_| quote!(connection));
    if let Some(third) = inputs.next() {
        return Err(Error::new(third.span(), "an action takes its input and a `&Connection`, nothing else"));
    }
    let ReturnType::Type(_, output) = &signature.output else {
        return Err(Error::new(signature.span(), "an action returns `keyward::Result<Output>`"));
    };
    let name = match name {
        Some(name) => name,
        None => {
            let text = signature.ident.to_string();
            LitStr::new(&text.trim_start_matches("r#").replace('_', "-"), signature.ident.span())
        }
    };
    if !is_action_name(&name.value()) {
        return Err(Error::new(
            name.span(),
            "an action's name has 1 to 63 characters a-z, 0-9 and single '-', starts with a letter and does not end with '-'",
        ));
    }
    let (ident, visibility, doc) = (&signature.ident, &function.vis, doc_text(&function.attrs));
    // Structs with braces live among the types only, so function and struct share the name, and one `use` brings both.
    Ok(quote! {
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #visibility struct #ident {}

        impl ::keyward::Action for #ident {
            const NAME: &'static str = #name;
            const DOC: &'static str = #doc;
            type Input = #input;
            type Output = <#output as ::keyward::__macro::ActionResult>::Output;

            fn run(input: Self::Input, connection: &::keyward::Connection) -> ::keyward::Result<Self::Output> {
                let _ = connection;
                #ident(input, #connection)
            }
        }
    })
}

/// The grammar of action names in the manifest.
fn is_action_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The doc comment, one paragraph a line, as it is shown to people.
fn doc_text(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let mut text = String::new();
    for line in lines {
        match line.trim() {
            "" if text.is_empty() || text.ends_with('\n') => {}
            "" => text.push('\n'),
            line => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push(' ');
                }
                text.push_str(line);
            }
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn doc_comment_becomes_one_paragraph_a_line() {
        let function: ItemFn = syn::parse_quote! {
            /// Greets
            /// somebody.
            ///
            ///
            /// Twice.
            fn hello() {}
        };
        assert_eq!(doc_text(&function.attrs), "Greets somebody.\nTwice.");
    }

    #[test]
    fn what_is_no_action_is_told_why() {
        for (function, expected) in [
            ("async fn f(a: A) -> Result<B> {}", "a plain function"),
            ("fn f<T>(a: T) -> Result<B> {}", "cannot be generic"),
            ("fn f() -> Result<B> {}", "takes its input"),
            ("fn f(&self) -> Result<B> {}", "no `self`"),
            ("fn f(connection: &Connection) -> Result<B> {}", "takes its input first, by value"),
            ("fn f(a: A, b: &Connection, c: C) -> Result<B> {}", "nothing else"),
            ("fn f(a: A) {}", "returns `keyward::Result<Output>`"),
            ("fn Hello(a: A) -> Result<B> {}", "an action's name"),
            ("fn f_(a: A) -> Result<B> {}", "an action's name"),
        ] {
            let parsed: ItemFn = syn::parse_str(function).unwrap();
            let message = expand(&parsed, None).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(expected), "{function}: {message}");
        }
    }

    #[test]
    fn name_is_the_functions_in_kebab_case_unless_another_is_given() {
        let function: ItemFn = syn::parse_quote!(
            fn list_issues(input: Input) -> Result<Output> {}
        );
        let name = |given: Option<LitStr>| expand(&function, given).unwrap().to_string();
        assert!(name(None).contains(r#""list-issues""#));
        assert!(name(Some(syn::parse_quote!("issues"))).contains(r#""issues""#));
    }

    #[test]
    fn action_names_follow_the_manifest() {
        for name in ["a", "list-issues", "v2"] {
            assert!(is_action_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "A", "a_b", "1a", "ä"] {
            assert!(!is_action_name(name), "{name}");
        }
    }
}
