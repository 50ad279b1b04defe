//! What a process of a cluster has said last, for whoever wants to know why it does not serve.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::layout::ClusterProcess;

/// Bytes at the end of a log in which the reason of a failure is looked for.
const LOG_END_BYTES: u64 = 16 << 10;

/// That a process does not serve, with what it has said last of the reason.
pub(super) fn not_serving(process: &ClusterProcess, log_begin: u64, what: &str) -> String {
    let why = last_complaint(&process.log, log_begin).map(|line| format!(": {line}")).unwrap_or_default();
    format!("{} {what}{why}; its log is {}", process.name(), process.log.display())
}

/// The last error or warning at the end of a log, of what was written to it from `begin` on.
fn last_complaint(log: &Path, begin: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(LOG_END_BYTES).max(begin))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let complaint = |line: &str| match line.strip_prefix("error: ") {
        Some(error) => Some(error.to_owned()),
        None => {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            // Those in small letters are of etcd.
            let bad = matches!(line["level"].as_str(), Some("ERROR" | "WARN" | "error" | "fatal" | "panic"));
            let fields = &line["fields"];
            let said = [&fields["message"], &fields["failure"], &fields["error"], &line["msg"], &line["error"]];
            let said: Vec<_> = said.iter().filter_map(|field| field.as_str()).collect();
            (bad && !said.is_empty()).then(|| said.join(": "))
        }
    };
    text.lines().rev().find_map(complaint)
}
