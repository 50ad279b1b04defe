//! `walser log inspect`: what lies in a data directory, read without a server.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use walser_log::{NamesById, RealDisk, read_topic_names};
use walser_model::TopicId;
use walser_record_batch::{BatchHeader, HEADER_LEN, verify_crc};

use crate::cli::LogCommand;
use crate::error::CliError;
use crate::output::{self, bytes, count, table};
use crate::records::time::time;

/// The directory of all partitions in a data directory.
const LOGS: &str = "logs";
/// Bytes that are read at once while only zeros are looked for.
const PIECE_BYTES: usize = 1 << 20;
/// The largest batch that is read; larger ones are not written.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Batches that are shown together: their columns are as wide as the widest of them.
const ROWS_MAX: usize = 1000;

const COLUMNS: [&str; 8] = ["POSITION", "OFFSETS", "RECORDS", "BYTES", "EPOCH", "CODEC", "PRODUCER", "NEWEST"];

/// A segment file, read from its start to its end, a batch at a time.
struct SegmentFile {
    file: File,
    path: PathBuf,
    len: u64,
    /// The batch that was read last.
    buffer: Vec<u8>,
}

pub(crate) fn run(command: &LogCommand) -> Result<ExitCode, CliError> {
    let LogCommand::Inspect { dir } = command;
    if dir.join(LOGS).is_dir() && is_data_directory(dir) {
        return inspect_directory(dir);
    }
    let segments = if dir.is_dir() { segments(dir)? } else { Vec::new() };
    if segments.is_empty() {
        return Err(not_ours(dir));
    }
    if let Some(name) = partition_name(dir) {
        output::data(&format!("partition {name}\n"));
    }
    inspect_partition(&segments)
}

/// Whether a server has made this directory its own.
fn is_data_directory(dir: &Path) -> bool {
    let meta = std::fs::read_to_string(dir.join("meta")).unwrap_or_default();
    // A server that has not met its controller has not written the file yet.
    meta.starts_with("format=") || dir.join(LOGS).join("checkpoint").is_file()
}

fn not_ours(dir: &Path) -> CliError {
    let what = if dir.exists() {
        "is neither a data directory of Walser nor the directory of a partition in one"
    } else {
        "does not exist"
    };
    let example = "give the directory of `walser up --data DIR`, or one below its `logs`";
    CliError::usage(format!("{} {what}", dir.display())).with_help(example)
}

fn problem(path: &Path) -> impl Fn(std::io::Error) -> CliError {
    move |error| CliError::failed(format!("{}: {error}", path.display()))
}

/// A line for each partition, with the name of its topic where the directory has it.
fn inspect_directory(dir: &Path) -> Result<ExitCode, CliError> {
    let names = read_topic_names(&RealDisk, dir).map_err(problem(dir))?;
    let logs = dir.join(LOGS);
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(&logs).map_err(problem(&logs))? {
        let path = entry.map_err(problem(&logs))?.path();
        if path.is_dir() {
            let segments = segments(&path)?;
            let size: u64 = segments.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
            let directory = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = named(&directory, &names).unwrap_or_else(|| "?".to_owned());
            rows.push(vec![
                name,
                directory,
                segments.len().to_string(),
                bytes(i64::try_from(size).unwrap_or(i64::MAX)),
            ]);
        }
    }
    rows.sort();
    output::data(&table(&["PARTITION", "DIRECTORY", "SEGMENTS", "FILES"], &rows));
    output::note(&format!("give one of these directories to see its batches, as in {}/DIRECTORY", logs.display()));
    Ok(ExitCode::SUCCESS)
}

/// The topic's name and the number of the partition that lies in a directory.
fn named(directory: &str, names: &NamesById) -> Option<String> {
    let (topic, number) = directory.split_at_checked(32)?;
    let topic: TopicId = topic.parse().ok()?;
    Some(format!("{}/{}", names.get(&topic)?, number.strip_prefix('-')?))
}

/// The name of the partition whose directory this is, when it lies in a data directory that has it.
fn partition_name(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let names = read_topic_names(&RealDisk, dir.parent()?.parent()?).ok()?;
    named(&dir.file_name()?.to_string_lossy(), &names)
}

/// The segment files of a partition's directory: 20 digits and `.log`.
fn segments(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(problem(dir))? {
        let path = entry.map_err(problem(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digits = name.strip_suffix(".log").unwrap_or_default();
        if digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn inspect_partition(segments: &[PathBuf]) -> Result<ExitCode, CliError> {
    let mut damaged = false;
    for path in segments {
        output::data(&format!("{}", path.display()));
        let mut segment = SegmentFile::open(path)?;
        let end = segment.show_batches()?;
        let zeros = segment.is_zero_from(end)?;
        let rest = size(segment.len.saturating_sub(end));
        if zeros {
            output::data(&format!("{} of log, {rest} of zeros ahead\n", size(end)));
        } else {
            damaged = true;
            output::data(&format!("no valid batch at position {end}: {rest} follow\n"));
        }
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn size(count: u64) -> String {
    bytes(i64::try_from(count).unwrap_or(i64::MAX))
}

fn row(position: u64, header: &BatchHeader) -> Vec<String> {
    let codec = header.attributes.codec().map_or_else(|number| number.to_string(), |codec| codec.to_string());
    let producer = if header.producer_id.is_some() {
        format!("{}/{} @{}", header.producer_id, header.producer_epoch.0, header.base_sequence)
    } else {
        "-".to_owned()
    };
    vec![
        count(i64::try_from(position).unwrap_or(i64::MAX)),
        format!("{}–{}", header.base_offset, header.last_offset()),
        header.record_count.to_string(),
        header.size.to_string(),
        header.leader_epoch.to_string(),
        codec,
        producer,
        time(header.max_timestamp),
    ]
}

// === impl SegmentFile ===

impl SegmentFile {
    fn open(path: &Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(problem(path))?;
        let len = file.metadata().map_err(problem(path))?.len();
        Ok(Self { file, path: path.to_owned(), len, buffer: Vec::new() })
    }

    /// Reads `len` bytes at `position` into the buffer; fewer at the end of the file.
    fn read(&mut self, position: u64, len: usize) -> Result<(), CliError> {
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        self.buffer.resize(len.min(left), 0);
        match self.file.read_exact_at(&mut self.buffer, position) {
            // A server that runs has cut the file meanwhile.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.len = self.file.metadata().map_err(problem(&self.path))?.len();
                self.read(position, len)
            }
            read => read.map_err(problem(&self.path)),
        }
    }

    /// The header of the batch at `position`, with the batch in the buffer. `None`: there is no valid one.
    fn batch(&mut self, position: u64) -> Result<Option<BatchHeader>, CliError> {
        self.read(position, HEADER_LEN)?;
        let Ok(header) = BatchHeader::parse(&self.buffer) else { return Ok(None) };
        if header.size > BATCH_BYTES_MAX {
            return Ok(None);
        }
        self.read(position, header.size)?;
        let whole = self.buffer.len() == header.size && verify_crc(&self.buffer).is_ok();
        Ok(whole.then_some(header))
    }

    /// Shows batches until the first thing that is none; returns where that is.
    fn show_batches(&mut self) -> Result<u64, CliError> {
        let (mut position, mut rows) = (0, Vec::new());
        loop {
            let header = self.batch(position)?;
            if header.is_none() || rows.len() == ROWS_MAX {
                output::data(&table(&COLUMNS, &rows));
                rows.clear();
            }
            let Some(header) = header else { return Ok(position) };
            rows.push(row(position, &header));
            position += header.size as u64;
        }
    }

    /// Whether there are only zeros from `position` on.
    fn is_zero_from(&mut self, mut position: u64) -> Result<bool, CliError> {
        while position < self.len {
            self.read(position, PIECE_BYTES)?;
            if self.buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += self.buffer.len() as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use walser_model::Compression;
    use walser_record_batch::{BatchBuilder, Producer, RecordFields};

    use super::*;

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, 100);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(b"x"), headers: &[] });
        builder.build(Producer::NONE).to_vec()
    }

    #[test]
    fn a_segment_is_read_in_pieces_however_long_it_is() {
        let path = std::env::temp_dir().join(format!("walser-inspect-{}.log", std::process::id()));
        let batch = batch();
        std::fs::write(&path, batch.repeat(3)).unwrap();
        let len = 20 << 20;
        File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        let mut segment = SegmentFile::open(&path).unwrap();
        let end = segment.show_batches().unwrap();
        assert_eq!(end, 3 * batch.len() as u64);
        assert!(segment.is_zero_from(end).unwrap());
        assert!(segment.buffer.capacity() <= 2 * PIECE_BYTES, "{}", segment.buffer.capacity());

        // A header that claims two gigabytes is not believed.
        let mut claiming = batch[..HEADER_LEN].to_vec();
        claiming[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        File::options().write(true).open(&path).unwrap().write_all_at(&claiming, len - 100).unwrap();
        let mut segment = SegmentFile::open(&path).unwrap();
        assert!(segment.batch(len - 100).unwrap().is_none() && !segment.is_zero_from(end).unwrap());
        assert!(segment.buffer.capacity() <= 2 * PIECE_BYTES, "{}", segment.buffer.capacity());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_partition_is_named_when_its_topic_is_known() {
        let names = NamesById::from([(TopicId::from_bytes([7; 16]), "orders".into())]);
        let directory = format!("{}-12", "07".repeat(16));
        assert_eq!(named(&directory, &names).as_deref(), Some("orders/12"));
        assert_eq!(named(&directory, &NamesById::new()), None);
        for other in ["checkpoint", "07070707-1", &directory.replace('-', "_")] {
            assert_eq!(named(other, &names), None, "{other}");
        }
    }
}
