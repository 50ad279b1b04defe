//! What a Rust file says, without its strings, comments and test code.
//!
//! The lexer is that of proc-macro2, so that raw strings, nested block comments and character literals end where the
//! compiler ends them. A doc comment becomes an attribute, whose text is a literal.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// A path as it is written, segment by segment; the last one may be `*`.
pub(crate) type Segments = Vec<String>;

/// Items that end with `;` even if braces come before.
const ENDS_WITH_SEMICOLON: [&str; 5] = ["use", "const", "static", "type", "let"];
/// Items that end with a brace group, or with `;` if they have none.
const ENDS_WITH_BRACES: [&str; 9] = ["mod", "fn", "impl", "struct", "enum", "trait", "unsafe", "async", "extern"];

/// Removes every item, field and statement that is marked `#[cfg(test)]`.
///
/// Returns what is left, and the names of the test modules that have a file of their own.
pub(crate) fn without_tests(tokens: TokenStream) -> (TokenStream, Vec<String>) {
    let mut modules = Vec::new();
    let left = strip(tokens, &mut modules);
    (left, modules)
}

fn strip(tokens: TokenStream, modules: &mut Vec<String>) -> TokenStream {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut left = Vec::with_capacity(trees.len());
    let mut at = 0;
    while at < trees.len() {
        if is_test_item(&trees[at..]) {
            let end = at + item_length(&trees[at..]);
            modules.extend(module_of_its_own(&trees[at..end]));
            at = end;
            continue;
        }
        left.push(match &trees[at] {
            TokenTree::Group(group) => {
                let stream = strip(group.stream(), modules);
                TokenTree::Group(Group::new(group.delimiter(), stream))
            }
            tree => tree.clone(),
        });
        at += 1;
    }
    left.into_iter().collect()
}

/// Whether one of the attributes that begin here is `#[cfg(test)]`.
fn is_test_item(trees: &[TokenTree]) -> bool {
    let attributes = trees.chunks(2).map_while(|pair| match pair {
        [TokenTree::Punct(hash), TokenTree::Group(group)] if hash.as_char() == '#' => Some(group.stream()),
        _ => None,
    });
    attributes.into_iter().any(|attribute| attribute.to_string().replace(' ', "") == "cfg(test)")
}

/// The number of tokens of an item with its attributes.
fn item_length(trees: &[TokenTree]) -> usize {
    let mut at = 0;
    while is_punct(trees.get(at), '#') {
        at += 2;
    }
    let body = at;
    let word = |index: usize| match trees.get(index) {
        Some(TokenTree::Ident(ident)) => ident.to_string(),
        _ => String::new(),
    };
    if word(at) == "pub" {
        at += 1;
        at += usize::from(matches!(trees.get(at), Some(TokenTree::Group(_))));
    }
    if word(at) == "const" && ["fn", "unsafe", "async", "extern"].contains(&word(at + 1).as_str()) {
        at += 1;
    }
    let keyword = word(at);
    let to_semicolon = ENDS_WITH_SEMICOLON.contains(&keyword.as_str());
    let to_braces = ENDS_WITH_BRACES.contains(&keyword.as_str());
    for (index, tree) in trees.iter().enumerate().skip(body) {
        let ends = match tree {
            TokenTree::Punct(punct) if punct.as_char() == ';' => true,
            TokenTree::Punct(punct) if punct.as_char() == ',' => !to_semicolon && !to_braces,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => to_braces,
            _ => false,
        };
        if ends {
            return index + 1;
        }
    }
    trees.len()
}

fn module_of_its_own(item: &[TokenTree]) -> Option<String> {
    match item {
        [.., TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Punct(_)] if keyword == "mod" => {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// Every path of two or more segments, with `use` groups written out, and every name that a `use` takes as a whole.
pub(crate) fn paths(tokens: TokenStream) -> Vec<Segments> {
    let mut found = Vec::new();
    collect_paths(tokens, &mut found);
    found
}

fn collect_paths(tokens: TokenStream, found: &mut Vec<Segments>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    let mut used = false;
    while at < trees.len() {
        match &trees[at] {
            TokenTree::Ident(ident) => {
                let before = found.len();
                let in_use = used;
                used = ident == "use";
                at = read_path(&trees, at, Vec::new(), found);
                if !in_use && found.len() == before + 1 && found[before].len() == 1 {
                    found.pop();
                }
            }
            TokenTree::Group(group) => {
                collect_paths(group.stream(), found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Reads the path that begins at `at`, and returns where it ends.
fn read_path(trees: &[TokenTree], at: usize, mut path: Segments, found: &mut Vec<Segments>) -> usize {
    path.push(trees[at].to_string());
    let mut at = at + 1;
    while is_double_colon(&trees[at..]) {
        match trees.get(at + 2) {
            Some(TokenTree::Ident(ident)) => path.push(ident.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => path.push("*".to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                read_group(group.stream(), &path, found);
                return at + 3;
            }
            // The `<` of generic arguments: what they name is read as paths of its own.
            _ => break,
        }
        at += 3;
    }
    found.push(path);
    at
}

fn read_group(tokens: TokenStream, prefix: &[String], found: &mut Vec<Segments>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for element in trees.split(|tree| is_punct(Some(tree), ',')) {
        match element {
            [TokenTree::Ident(ident), ..] if ident == "self" => found.push(prefix.to_vec()),
            [TokenTree::Ident(_), ..] => {
                read_path(element, 0, prefix.to_vec(), found);
            }
            [TokenTree::Punct(_), ..] => found.push([prefix, &["*".to_owned()]].concat()),
            _ => {}
        }
    }
}

/// The identifiers, and the words in literals that are no comments.
pub(crate) fn words(tokens: TokenStream) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut identifiers, mut literals) = (BTreeSet::new(), BTreeSet::new());
    let mut waiting = vec![tokens];
    while let Some(tokens) = waiting.pop() {
        for tree in tokens {
            match tree {
                TokenTree::Group(group) if doc_text(&group).is_none() => waiting.push(group.stream()),
                TokenTree::Ident(ident) => drop(identifiers.insert(ident.to_string())),
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
                    literals.extend(words.map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    (identifiers, literals)
}

/// The text of the `//!` comments.
pub(crate) fn inner_docs(tokens: TokenStream) -> String {
    let mut text = String::new();
    collect_inner_docs(tokens, &mut text);
    text
}

fn collect_inner_docs(tokens: TokenStream, text: &mut String) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        let TokenTree::Group(group) = tree else { continue };
        match doc_text(group) {
            Some(line) if at > 0 && is_punct(trees.get(at - 1), '!') => {
                text.push_str(&line);
                text.push('\n');
            }
            Some(_) => {}
            None => collect_inner_docs(group.stream(), text),
        }
    }
}

/// The text of `[doc = "text"]`.
fn doc_text(group: &Group) -> Option<String> {
    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
    match trees.as_slice() {
        [TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Literal(text)]
            if name == "doc" && group.delimiter() == Delimiter::Bracket =>
        {
            Some(syn::parse_str::<syn::LitStr>(&text.to_string()).ok()?.value())
        }
        _ => None,
    }
}

fn is_double_colon(trees: &[TokenTree]) -> bool {
    match trees {
        [TokenTree::Punct(first), TokenTree::Punct(second), ..] => {
            first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':'
        }
        _ => false,
    }
}

fn is_punct(tree: Option<&TokenTree>, char: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

fn written(code: &str) -> Vec<String> {
    let (left, _) = without_tests(code.parse().unwrap());
    paths(left).into_iter().map(|path| path.join("::")).collect()
}

#[test]
fn strings_comments_and_characters_hide_nothing_and_say_nothing() {
    let code = r####"
        //! crate::a
        /* crate::b /* crate::c */ crate::d */
        /// crate::e
        fn f() -> char { g("crate::g \" crate::h", r##"crate::i "# crate::j"##, b"crate::k"); let q = '"'; real::one(q); '\'' }
        const LIFETIME: &'static real::Two = &real::TWO; // '"'
    "####;
    assert_eq!(written(code), ["real::one", "real::Two", "real::TWO"]);
}

#[test]
fn test_code_is_left_out_to_its_end_and_no_further() {
    let code = "
        #[cfg(test)] mod tests { use t::a; fn f() { t::b() } } fn one() { k::one() }
        /// A comment is an attribute.
        #[must_use] #[cfg(test)] use t::{c, d::e}; #[must_use] use k::two;
        #[cfg(test)] #[derive(Debug)] pub(crate) struct S<A, B>(t::f, A, B); struct T { #[cfg(test)] x: t::g, y: k::three }
        #[cfg(test)] pub const fn f<A, B>() -> t::h { t::i } #[cfg(test)] const C: t::j = t::j { a: 1 }; type U = k::four;
        fn two() { #[cfg(test)] let x = t::k { a: 1 }; k::five() }
        #[cfg(not(test))] use k::six;
    ";
    assert_eq!(written(code), ["k::one", "k::two", "k::three", "k::four", "k::five", "k::six"]);
}

#[test]
fn a_test_module_with_a_file_is_named() {
    let (_, modules) = without_tests("#[cfg(test)] mod tests; #[cfg(test)] mod here {} mod real;".parse().unwrap());
    assert_eq!(modules, ["tests"]);
}

#[test]
fn groups_of_a_use_are_written_out() {
    let code = "use a::{self, b::{C, D as E}, f::*, *}; use tonic; let x: g::H<i::J> = m!(k::L { n: o::<p::Q>::R });";
    let wanted = ["a", "a::b::C", "a::b::D", "a::f::*", "a::*", "tonic", "g::H", "i::J", "k::L", "p::Q"];
    assert_eq!(written(code), wanted);
}

#[test]
fn identifiers_and_words_of_literals_are_told_from_comments() {
    let code = r##"
        //! gone_1
        /// gone_2
        fn f() { /* gone_3 */ g("a_key, other", r#"raw_"key"#); }
        #[cfg(test)] mod tests { fn tested() {} }
    "##;
    let (identifiers, literals) = words(code.parse().unwrap());
    assert_eq!(identifiers.into_iter().collect::<Vec<_>>(), ["cfg", "f", "fn", "g", "mod", "test", "tested", "tests"]);
    assert!(["a_key", "other", "raw_", "key"].iter().all(|word| literals.contains(*word)));
    assert!(!literals.iter().any(|word| word.starts_with("gone")));
}

#[test]
fn the_text_of_inner_comments_is_read_as_it_is_written() {
    let code = "//! One `a`\n//! \"two\" \\n.\n/// no\nmod m {\n//! three\n}\n const C: &str = \"\n//! no\n\";";
    assert_eq!(inner_docs(code.parse().unwrap()), " One `a`\n \"two\" \\n.\n three\n");
}
