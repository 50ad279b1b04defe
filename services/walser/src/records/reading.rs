//! From a piece of input to a record.

use super::envelope::told;
use super::format::{InputFormat, find};
use super::json::JsonPath;
use super::{Header, NewRecord, envelope};

/// What a piece of input is, and what belongs to every record beside it.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) form: Form,
    pub(crate) key: KeySource,
    /// Headers of every record; those of the input come behind them.
    pub(crate) headers: Vec<Header>,
    /// Time of every record that has none of its own.
    pub(crate) timestamp: Option<i64>,
    /// Empty keys and values are null.
    pub(crate) empty_is_null: bool,
}

/// What a piece of input is.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// The value, perhaps with a key before it.
    Value,
    /// The envelope of `walser consume -o json`, with the partition that it names or without.
    Envelope { keep_partition: bool },
    /// What a format string says.
    Format(InputFormat),
}

/// Where the key comes from, unless the form has one.
#[derive(Debug, Clone)]
pub(crate) enum KeySource {
    None,
    /// The same for every record.
    Fixed(Vec<u8>),
    /// What stands before the first delimiter.
    Delimiter(Vec<u8>),
    /// A field of the value, which is JSON.
    Json(JsonPath),
}

// === impl Reading ===

impl Reading {
    /// Reads one record.
    ///
    /// # Errors
    /// In words for people, to stand behind "line 7: ".
    pub(crate) fn record(&self, piece: Vec<u8>) -> Result<NewRecord, String> {
        let mut record = match &self.form {
            Form::Value => self.value(piece)?,
            Form::Envelope { keep_partition } => {
                let record = envelope::read(&piece)?;
                NewRecord { partition: record.partition.filter(|_| *keep_partition), ..record }
            }
            Form::Format(format) => format.read(&piece)?,
        };
        if record.key.is_none()
            && let KeySource::Fixed(key) = &self.key
        {
            record.key = Some(key.clone());
        }
        if self.empty_is_null {
            record.key = record.key.filter(|key| !key.is_empty());
            record.value = record.value.filter(|value| !value.is_empty());
        }
        if !self.headers.is_empty() {
            let own = std::mem::replace(&mut record.headers, self.headers.clone());
            record.headers.extend(own);
        }
        record.timestamp = record.timestamp.or(self.timestamp);
        Ok(record)
    }

    fn value(&self, piece: Vec<u8>) -> Result<NewRecord, String> {
        let (key, value) = match &self.key {
            KeySource::None | KeySource::Fixed(_) => (None, piece),
            KeySource::Delimiter(delimiter) => match find(&piece, delimiter) {
                Some(at) => (Some(piece[..at].to_vec()), piece[at + delimiter.len()..].to_vec()),
                None => (None, piece),
            },
            KeySource::Json(path) => {
                let key = path.key_in(&piece);
                let key = key
                    .map_err(|error| format!("it is not JSON, so --key-json finds nothing in it: {}", told(&error)))?;
                (key, piece)
            }
        };
        Ok(NewRecord { key, value: Some(value), ..NewRecord::default() })
    }
}

/// A header as the command line has it: `NAME=VALUE`.
pub(crate) fn header(text: &str) -> Result<Header, String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))),
        None => Err(format!("header \"{text}\" is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::format::read_headers;

    fn reading(key: KeySource) -> Reading {
        Reading { form: Form::Value, key, headers: Vec::new(), timestamp: None, empty_is_null: false }
    }

    fn parts(reading: &Reading, text: &str) -> (Option<String>, Option<String>) {
        let text_of = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
        let record = reading.record(text.into()).unwrap();
        (text_of(record.key), text_of(record.value))
    }

    #[test]
    fn keys_stand_before_the_first_delimiter() {
        let mut reading = reading(KeySource::Delimiter(b": ".to_vec()));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts(&reading, "a: b: c"), (some("a"), some("b: c")));
        assert_eq!(parts(&reading, "no delimiter"), (None, some("no delimiter")));
        assert_eq!(parts(&reading, ": "), (some(""), some("")));
        reading.empty_is_null = true;
        assert_eq!(parts(&reading, "a: "), (some("a"), None), "a tombstone");
        assert_eq!(parts(&reading, ": v"), (None, some("v")));
    }

    #[test]
    fn what_belongs_to_every_record_yields_to_the_records_own() {
        let reading = Reading {
            form: Form::Envelope { keep_partition: false },
            key: KeySource::Fixed(b"all".to_vec()),
            headers: vec![(b"h".to_vec(), Some(b"1".to_vec()))],
            timestamp: Some(5),
            empty_is_null: false,
        };
        let own = br#"{"key":"own","timestamp":7,"headers":[{"key":"h","value":null}],"value":"v"}"#;
        let record = reading.record(own.to_vec()).unwrap();
        assert_eq!((record.key, record.timestamp), (Some(b"own".to_vec()), Some(7)));
        assert_eq!(record.headers, [(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None)]);
        let record = reading.record(br#"{"value":"v"}"#.to_vec()).unwrap();
        assert_eq!((record.key, record.timestamp), (Some(b"all".to_vec()), Some(5)));
    }

    #[test]
    fn bad_input_says_why() {
        let path = JsonPath::parse(".id").unwrap();
        let error = reading(KeySource::Json(path)).record(b"{".to_vec()).unwrap_err();
        assert!(error.starts_with("it is not JSON"), "{error}");
        assert!(header("name").is_err());
        assert_eq!(read_headers(b"a=b"), [header("a=b").unwrap()]);
    }
}
