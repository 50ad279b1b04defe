//! The settings of a topic, as far as this version can read them.

use std::collections::BTreeMap;

use walser_model::TopicConfig;

/// The settings of a topic. A topic with a setting that cannot be read exists: its data stays and can be read, writes
/// are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// The effective settings. Where one of them cannot be read, defaults, without any retention: a default that nobody
    /// has chosen deletes nothing.
    pub config: TopicConfig,
    /// Why some of them cannot be read.
    pub unreadable: Option<String>,
}

impl TopicSettings {
    /// The settings that these overrides make.
    pub fn of(overrides: &BTreeMap<String, String>) -> Self {
        let pairs = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        match TopicConfig::from_overrides(pairs) {
            Ok(config) => Self { config, unreadable: None },
            Err(error) => {
                let config = TopicConfig { retention: None, retention_bytes: None, ..TopicConfig::default() };
                Self { config, unreadable: Some(error.to_string()) }
            }
        }
    }
}

#[test]
fn a_topic_whose_settings_cannot_be_read_keeps_everything() {
    let readable = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    assert_eq!(TopicSettings::of(&readable).config.retention.map(|kept| kept.as_millis()), Some(1000));
    let settings = TopicSettings::of(&BTreeMap::from([("segment.millis".to_owned(), "1".to_owned())]));
    assert!(settings.unreadable.is_some_and(|why| why.contains("segment.millis")));
    assert_eq!((settings.config.retention, settings.config.retention_bytes), (None, None));
}
