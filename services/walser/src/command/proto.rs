//! `walser proto`.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::{Language, ProtoCommand};
use crate::error::CliError;
use crate::output;

/// The first line of every exported file. A file without it has another origin and is not overwritten.
const ORIGIN: &str = "// Written by `walser proto export`; the next export overwrites it.";

pub(crate) fn run(command: &ProtoCommand) -> Result<ExitCode, CliError> {
    let ProtoCommand::Export { dir, lang } = command;
    for (name, _) in walser_proto::SOURCES {
        check_origin(&dir.join(name))?;
    }
    for (name, text) in walser_proto::SOURCES {
        let path = dir.join(name);
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(&path, format!("{ORIGIN}\n{text}")).map_err(failed)?;
    }
    let count = walser_proto::SOURCES.len();
    let dir = dir.display().to_string();
    output::note(&format!("wrote {count} files to {dir} (package walser.v1, imports only google/protobuf/*)"));
    match lang {
        Some(lang) => output::data(recipe(*lang).replace("./proto", &quoted(&dir)).trim_end()),
        None => output::note("--lang python, go, typescript, java or rust prints the commands that compile them"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a file that an export has not written.
fn check_origin(path: &Path) -> Result<(), CliError> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.starts_with(ORIGIN.as_bytes()) => Ok(()),
        Ok(_) => {
            let error = CliError::failed(format!("{} is there and was not written by an export", path.display()));
            Err(error.with_help("name another directory: nothing was written"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CliError::failed(format!("{}: {error}", path.display()))),
    }
}

/// The commands that compile the files in `./proto`. The examples of the project are built by them.
fn recipe(lang: Language) -> &'static str {
    match lang {
        Language::Python => include_str!("recipes/python.txt"),
        Language::Go => include_str!("recipes/go.txt"),
        Language::Typescript => include_str!("recipes/typescript.txt"),
        Language::Java => include_str!("recipes/java.txt"),
        Language::Rust => include_str!("recipes/rust.txt"),
    }
}

/// A directory as a shell and a Go import take it: with a slash in it, and in quotes where it has spaces.
fn quoted(dir: &str) -> String {
    let dir = if dir.contains('/') { dir.to_owned() } else { format!("./{dir}") };
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if dir.chars().all(plain) { dir } else { format!("'{}'", dir.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_overwrites_only_what_an_export_wrote() {
        let place = tempfile::tempdir().unwrap();
        let export = |lang| run(&ProtoCommand::Export { dir: place.path().to_owned(), lang });
        export(None).unwrap();
        export(Some(Language::Python)).unwrap();
        let file = place.path().join("walser/v1/topic.proto");
        std::fs::write(&file, "// mine").unwrap();
        std::fs::remove_file(place.path().join("walser/v1/common.proto")).unwrap();
        export(None).unwrap_err();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "// mine");
        assert!(!place.path().join("walser/v1/common.proto").exists(), "nothing is written");
    }

    #[test]
    fn recipes_name_the_directory_and_fit_80_columns() {
        for lang in [Language::Python, Language::Go, Language::Typescript, Language::Java, Language::Rust] {
            assert!(recipe(lang).contains("./proto"), "{lang:?}");
            assert!(recipe(lang).lines().all(|line| line.len() <= 80), "{lang:?}");
        }
        assert_eq!(quoted("proto"), "./proto");
        assert_eq!(quoted("/tmp/a b's"), "'/tmp/a b'\\''s'");
    }
}
