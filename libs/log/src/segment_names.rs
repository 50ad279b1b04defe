//! Names of the files of segments.

use walser_model::Offset;

/// Of an index file.
pub(crate) const INDEX_EXTENSION: &str = "index";
const LOG_SUFFIX: &str = ".log";
/// Of a log file whose name is being written again.
pub(crate) const MOVED_EXTENSION: &str = "moved";

/// The name of a segment's log file.
pub(crate) fn log_name(base: Offset) -> String {
    format!("{:020}{LOG_SUFFIX}", base.0)
}

/// The name of a segment's index file.
pub(crate) fn index_name(base: Offset) -> String {
    format!("{:020}.{INDEX_EXTENSION}", base.0)
}

/// The name of the log file whose name was being written again, if this is one.
pub(crate) fn moved_name(name: &str) -> Option<String> {
    let digits = name.strip_suffix(MOVED_EXTENSION)?.strip_suffix('.')?;
    Some(format!("{digits}{LOG_SUFFIX}")).filter(|name| base_of(name).is_some())
}

/// The base offset in a log file's name.
pub(crate) fn base_of(name: &str) -> Option<Offset> {
    base_before(name, LOG_SUFFIX)
}

/// The base offset in the name of a file of a segment, before a suffix.
pub(crate) fn base_before(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|base| *base >= 0).map(Offset)
}
