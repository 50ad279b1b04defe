//! `walser log inspect`: what lies in a data directory, read without a server.

use std::path::Path;
use std::process::ExitCode;

use walser_record_batch::{BatchHeader, HEADER_LEN, verify_crc};

use crate::cli::LogCommand;
use crate::error::CliError;
use crate::output::{self, bytes, count, table};
use crate::records::time::time;

pub(crate) fn run(command: &LogCommand) -> Result<ExitCode, CliError> {
    let LogCommand::Inspect { dir } = command;
    let problem = |error: std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
    let logs = dir.join("logs");
    if !logs.is_dir() {
        return inspect_partition(dir);
    }
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(&logs).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        if path.is_dir() {
            let segments = segments(&path)?;
            let size: u64 = segments.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            rows.push(vec![name, segments.len().to_string(), bytes(i64::try_from(size).unwrap_or(i64::MAX))]);
        }
    }
    rows.sort();
    output::data(&table(&["PARTITION", "SEGMENTS", "FILES"], &rows));
    output::note("give one of these directories to see its batches");
    Ok(ExitCode::SUCCESS)
}

fn segments(dir: &Path) -> Result<Vec<std::path::PathBuf>, CliError> {
    let problem = |error: std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn inspect_partition(dir: &Path) -> Result<ExitCode, CliError> {
    let segments = segments(dir)?;
    if segments.is_empty() {
        let text = format!("{} is neither a data directory nor a partition's directory", dir.display());
        return Err(CliError::usage(text));
    }
    let mut damaged = false;
    for path in segments {
        output::data(&format!("{}", path.display()));
        let content = std::fs::read(&path).map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
        let mut rows = Vec::new();
        let end = batches(&content, &mut rows);
        output::data(&table(
            &["POSITION", "OFFSETS", "RECORDS", "BYTES", "EPOCH", "CODEC", "PRODUCER", "NEWEST"],
            &rows,
        ));
        let rest = &content[end..];
        if rest.iter().all(|byte| *byte == 0) {
            output::data(&format!("{} of log, {} of zeros ahead\n", size(end), size(rest.len())));
        } else {
            damaged = true;
            output::data(&format!("no valid batch at position {end}: {} follow\n", size(rest.len())));
        }
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn size(count: usize) -> String {
    bytes(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Describes batches until the first thing that is none; gives back where that is.
fn batches(content: &[u8], rows: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    while content.len() - at >= HEADER_LEN {
        let Ok(header) = BatchHeader::parse(&content[at..]) else { break };
        let Some(batch) = content.get(at..at + header.size) else { break };
        if verify_crc(batch).is_err() {
            break;
        }
        let codec = header.attributes.codec().map_or_else(|number| number.to_string(), |codec| codec.to_string());
        let producer = if header.producer_id.is_some() {
            format!("{}/{} @{}", header.producer_id, header.producer_epoch.0, header.base_sequence)
        } else {
            "-".to_owned()
        };
        rows.push(vec![
            count(i64::try_from(at).unwrap_or(0)),
            format!("{}–{}", header.base_offset, header.last_offset()),
            header.record_count.to_string(),
            header.size.to_string(),
            header.leader_epoch.to_string(),
            codec,
            producer,
            time(header.max_timestamp),
        ]);
        at += header.size;
    }
    at
}
