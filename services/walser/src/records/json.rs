//! JSON as it was sent: numbers keep their digits, objects their duplicate fields, and no document is built.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::output;

/// A place in a JSON document, such as `.user.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath {
    fields: Vec<String>,
}

// === impl JsonPath ===

impl JsonPath {
    /// Reads a path: a dot before every field name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let names = text.strip_prefix('.').ok_or("a path begins with a dot, such as .user.id")?;
        if names.split('.').any(str::is_empty) {
            return Err("a name in the path is empty; write it as .user.id".to_owned());
        }
        if names.contains(['[', ']']) {
            return Err("a path names fields only; it cannot look into lists".to_owned());
        }
        Ok(Self { fields: names.split('.').map(str::to_owned).collect() })
    }

    /// The value at the path as a key: a string's text, else the JSON with the digits that it has. `None`: it is null or
    /// not there. Of duplicate fields the last one counts, as for `jq`.
    ///
    /// # Errors
    /// When the document is not JSON.
    pub(crate) fn key_in(&self, document: &[u8]) -> Result<Option<Vec<u8>>, serde_json::Error> {
        let mut value: Cow<'_, RawValue> = Cow::Borrowed(serde_json::from_slice::<&RawValue>(document)?);
        for name in &self.fields {
            match field(value.get(), name)? {
                Some(found) => value = Cow::Owned(found),
                None => return Ok(None),
            }
        }
        match value.get().as_bytes().first() {
            Some(b'n') => Ok(None),
            Some(b'"') => Ok(Some(serde_json::from_str::<String>(value.get())?.into_bytes())),
            _ => Ok(Some(compact(value.get().as_bytes()))),
        }
    }
}

/// The last field of that name, if the text is an object that has one.
fn field(text: &str, name: &str) -> Result<Option<Box<RawValue>>, serde_json::Error> {
    struct Find<'a>(&'a str);

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<Box<RawValue>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                if key == self.0 {
                    found = Some(map.next_value::<Box<RawValue>>()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    impl<'de> DeserializeSeed<'de> for Find<'_> {
        type Value = Option<Box<RawValue>>;

        fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    if !text.starts_with('{') {
        return Ok(None);
    }
    Find(name).deserialize(&mut serde_json::Deserializer::from_str(text))
}

/// Whether bytes are one JSON object or array.
pub(crate) fn is_document(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let begins = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(begins, Some(b'{' | b'[')) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Valid JSON without the white space between its tokens, so that it stays on one line.
pub(crate) fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    for byte in json {
        if in_text {
            (escaped, in_text) = (!escaped && *byte == b'\\', escaped || *byte != b'"');
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_text = *byte == b'"';
        }
        out.push(*byte);
    }
    out
}

/// A JSON document on one line, as it was sent but for characters that terminals obey: they are escaped.
pub(crate) fn write_document(out: &mut impl Write, document: &[u8]) -> io::Result<()> {
    let compact = compact(document);
    let Ok(text) = std::str::from_utf8(&compact) else { return out.write_all(&compact) };
    let mut rest = text;
    // Such characters are in strings only: elsewhere the document would not be JSON.
    while let Some(at) = rest.find(output::obeyed) {
        out.write_all(&rest.as_bytes()[..at])?;
        let character = rest[at..].chars().next().unwrap_or_default();
        write!(out, "\\u{:04x}", u32::from(character))?;
        rest = &rest[at + character.len_utf8()..];
    }
    out.write_all(rest.as_bytes())
}

/// A JSON string. Control characters are escaped, those above ASCII, too: some terminals obey them.
pub(crate) fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    // serde_json escapes those below a space.
    let obeyed = |character: char| character >= ' ' && output::obeyed(character);
    if !text.contains(obeyed) {
        return serde_json::to_writer(out, text).map_err(io::Error::from);
    }
    out.write_all(b"\"")?;
    for character in text.chars() {
        if obeyed(character) {
            write!(out, "\\u{:04x}", u32::from(character))?;
            continue;
        }
        let quoted = serde_json::to_string(character.encode_utf8(&mut [0; 4])).map_err(io::Error::from)?;
        out.write_all(&quoted.as_bytes()[1..quoted.len() - 1])?;
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, document: &str) -> Option<String> {
        let found = JsonPath::parse(path).unwrap().key_in(document.as_bytes()).unwrap();
        found.map(|key| String::from_utf8(key).unwrap())
    }

    #[test]
    fn a_key_keeps_the_digits_and_the_text_that_were_sent() {
        let document = r#"{"n":123456789012345678901234,"f":0.12345678901234567890123,"e":1E5,"s":"a\u00e9\n",
            "o":{"b": 1.0 , "a" : [1,  "x y"]},"z":null,"d":1,"d":2,"a/b":{"~":true}}"#;
        assert_eq!(key(".n", document).unwrap(), "123456789012345678901234");
        assert_eq!(key(".f", document).unwrap(), "0.12345678901234567890123");
        assert_eq!(key(".e", document).unwrap(), "1E5");
        assert_eq!(key(".s", document).unwrap(), "a\u{e9}\n");
        assert_eq!(key(".o", document).unwrap(), r#"{"b":1.0,"a":[1,"x y"]}"#);
        assert_eq!(key(".o.b", document).unwrap(), "1.0");
        assert_eq!(key(".d", document).unwrap(), "2", "the last of duplicates");
        assert_eq!(key(".a/b.~", document).unwrap(), "true");
        for nothing in [".z", ".missing", ".n.deeper", ".o.c"] {
            assert_eq!(key(nothing, document), None, "{nothing}");
        }
        assert_eq!(key(".a", "[1]"), None);
        assert!(JsonPath::parse(".a").unwrap().key_in(b"{\"a\":1").is_err());
        for bad in ["a", ".", ".a..b", ".a[0]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn white_space_goes_only_between_tokens() {
        let spaced = "{ \"a b\" : [ 1 ,\n\t\"\\\" x \\\\\" , {} ] }";
        assert_eq!(compact(spaced.as_bytes()), br#"{"a b":[1,"\" x \\",{}]}"#);
    }

    #[test]
    fn documents_are_text_and_harmless() {
        assert!(!is_document(b"{\"a\":\"\xff\"}") && !is_document(b"\"a\"") && is_document(b" [1]"));
        let mut out = Vec::new();
        write_document(&mut out, "{ \"a\": \"\u{9b}2J\u{7f}\" }".as_bytes()).unwrap();
        assert_eq!(out, br#"{"a":"\u009b2J\u007f"}"#);
    }

    #[test]
    fn text_has_no_character_that_a_terminal_obeys() {
        let mut out = Vec::new();
        write_text(&mut out, "a\u{1b}[2J\u{9b}2J\u{7f}\"\u{e9}\u{202e}").unwrap();
        assert_eq!(String::from_utf8(out.clone()).unwrap(), "\"a\\u001b[2J\\u009b2J\\u007f\\\"\u{e9}\\u202e\"");
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), "a\u{1b}[2J\u{9b}2J\u{7f}\"\u{e9}\u{202e}");
    }
}
