//! `walser proto`.

use std::process::ExitCode;

use crate::cli::{Language, ProtoCommand};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(command: &ProtoCommand) -> Result<ExitCode, CliError> {
    let ProtoCommand::Export { dir, lang } = command;
    let problem = |error: std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
    for (name, text) in walser_proto::SOURCES {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(problem)?;
        }
        std::fs::write(&path, text).map_err(problem)?;
    }
    let count = walser_proto::SOURCES.len();
    let dir = dir.display().to_string();
    output::data(&format!(
        "wrote {count} files to {dir} (package walser.v1, imports only google/protobuf/*)\nnext:  {}",
        next(*lang, &dir).replace('\n', "\n       ")
    ));
    Ok(ExitCode::SUCCESS)
}

/// The Go module that the files name in `go_package`.
const GO_MODULE: &str = "github.com/walser-log/walser/gen/go";

/// How to compile the files.
fn next(lang: Option<Language>, dir: &str) -> String {
    let files = format!("{dir}/walser/v1/*.proto");
    match lang {
        Some(Language::Python) => format!(
            "pip install grpcio grpcio-tools\npython -m grpc_tools.protoc -I{dir} --python_out=. --grpc_python_out=. {files}"
        ),
        Some(Language::Go) => format!(
            "go install google.golang.org/protobuf/cmd/protoc-gen-go@latest\ngo install google.golang.org/grpc/cmd/protoc-gen-go-grpc@latest\nprotoc -I{dir} --go_out=gen --go_opt=module={GO_MODULE} --go-grpc_out=gen --go-grpc_opt=module={GO_MODULE} {files}"
        ),
        Some(Language::Typescript) => {
            format!(
                "npm install @grpc/grpc-js @grpc/proto-loader\nnpx proto-loader-gen-types --grpcLib=@grpc/grpc-js --outDir=. {files}"
            )
        }
        None => format!("protoc -I{dir} --LANG_out=. {files}   (--lang shows the command for a language)"),
    }
}
