//! What documents name exists: files, verbs of the Makefile, and names in the sources.

use std::collections::BTreeSet;

use crate::exceptions::assert_only_listed;
use crate::markdown::{Mention, mentions};
use crate::tree::{Source, all_paths, document_files, example, folder_of, krate_of, proto_files, root, sources};

/// The length of `exceptions/documents.txt`.
const DOCUMENTS_MAX: usize = 0;
/// Files with these endings are of the repository.
const ENDINGS: [&str; 11] = ["rs", "md", "sh", "py", "go", "ts", "java", "proto", "toml", "golden", "txt"];
/// A path below these is of the repository, whatever its ending.
const FOLDERS: [&str; 7] = ["docs", "examples", "integration-tests", "libs", "proto", "scripts", "services"];
/// What many crates have, the examples of the rules for code, and a file of users.
const ANY: [&str; 7] = ["lib.rs", "main.rs", "mod.rs", "foo.rs", "foo/", "Foo", "config.toml"];
/// Names of other projects: Linux, Kafka and its Java client, lz4-java, snappy-java, zstd-jni, and of the crate
/// `prometheus`, which measures the process.
const FOREIGN: [&str; 11] = [
    "CurrentAssignmentBuilder",
    "Lz4BlockInputStream",
    "ProducerStateManager",
    "SnappyInputStream",
    "UniformAssignmentBuilder",
    "ZstdInputStream",
    "errseq_t",
    "process_max_fds",
    "process_open_fds",
    "process_threads",
    "process_virtual_memory_bytes",
];

/// Where a document is, and what it says.
struct Document {
    path: String,
    text: String,
}

/// What documents may name.
struct Known {
    paths: BTreeSet<String>,
    targets: BTreeSet<String>,
    identifiers: BTreeSet<String>,
    words: BTreeSet<String>,
}

/// Something that must exist.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Target(String),
    Path(String),
    Identifier(String),
    /// In code or in its strings: a key, a metric, a field.
    Word(String),
}

#[test]
fn what_documents_name_exists() {
    let protos = proto_files().into_iter().map(|(_, text)| text);
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let known = Known::new(all_paths(), &makefile, sources(), protos);
    let mut documents: Vec<Document> = sources().iter().map(comments_of).collect();
    documents.extend(document_files().into_iter().map(|(path, text)| Document { path, text }));
    assert_only_listed("documents", DOCUMENTS_MAX, &what_is_missing(&known, &documents));
}

fn comments_of(source: &Source) -> Document {
    Document { path: source.path.clone(), text: source.inner_docs.clone() }
}

fn what_is_missing(known: &Known, documents: &[Document]) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for document in documents {
        let mut bases = bases_of(&document.path);
        let own = bases.len();
        for mention in mentions(&document.text) {
            let (text, claims) = match mention {
                Mention::Code(code) => (code.clone(), claims(&code)),
                Mention::Link(target) if target.contains("::") => continue,
                Mention::Link(target) => (target.clone(), vec![Claim::Path(target)]),
            };
            for claim in claims {
                let found = match &claim {
                    Claim::Target(target) => known.targets.contains(target),
                    Claim::Identifier(name) => known.identifiers.contains(name),
                    Claim::Word(word) => known.has_word(word),
                    Claim::Path(path) => {
                        let resolved = known.resolve(path, &bases);
                        if let Some(resolved) = &resolved {
                            bases.truncate(own);
                            bases.extend(bases_of(resolved));
                        }
                        resolved.is_some()
                    }
                };
                if !found {
                    missing.insert(format!("{}: `{text}`", document.path));
                }
            }
        }
    }
    missing
}

/// The folders that a file's paths may begin at: the root, its own, that of its child modules, and those of its crate.
fn bases_of(path: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut bases = vec![String::new(), folder.to_owned(), folder_of(path).to_owned()];
    if let Some(krate) = krate_of(path) {
        bases.extend(["", "/src", "/tests"].map(|part| format!("{krate}{part}")));
    }
    bases
}

/// What a piece of code in a document says to exist.
fn claims(code: &str) -> Vec<Claim> {
    if ANY.contains(&code) || FOREIGN.contains(&code) {
        return Vec::new();
    }
    let verbs = code.split("&&").filter_map(|command| command.trim().strip_prefix("make "));
    let verbs = verbs.flat_map(str::split_whitespace).filter(|verb| !verb.contains('='));
    let targets: Vec<Claim> = verbs.map(|verb| Claim::Target(verb.to_owned())).collect();
    if !targets.is_empty() {
        return targets;
    }
    let paths: Vec<Claim> = expand(code).into_iter().filter(|path| is_path(path)).map(Claim::Path).collect();
    if paths.is_empty() { symbols(code) } else { paths }
}

/// Writes `a/{b,c}.rs` out.
fn expand(code: &str) -> Vec<String> {
    let parts = code.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match parts {
        Some((before, (inner, after))) => inner.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![code.to_owned()],
    }
}

/// A file with one of our endings, a folder with `/` at its end, or anything in one of our folders. Words in capitals
/// are placeholders.
fn is_path(code: &str) -> bool {
    let plain = code.chars().all(|char| char.is_ascii_alphanumeric() || "_-./".contains(char));
    let placeholder = |part: &str| part.len() > 1 && part.chars().all(|char| char.is_ascii_uppercase());
    if !plain || code.starts_with('/') || code.split('/').any(placeholder) {
        return false;
    }
    let ending = code.rsplit_once('.').is_some_and(|(stem, ending)| !stem.is_empty() && ENDINGS.contains(&ending));
    let folder = code.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first));
    ending || folder || code.ends_with('/')
}

/// The names of `Type::method`, `module::item`, `function()`, `Type`, `Type.field`, `package.v1.Type`, `snake_case` and
/// `UPPER_CASE`. One word in small letters may be anything.
fn symbols(code: &str) -> Vec<Claim> {
    let name = code.strip_suffix("()").unwrap_or(code);
    let word = |part: &str| {
        part.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_')
            && part.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
    };
    let parts: Vec<&str> = if name.contains("::") { name.split("::").collect() } else { name.split('.').collect() };
    if !parts.iter().all(|part| word(part)) {
        return Vec::new();
    }
    let camel = |part: &str| part.starts_with(char::is_uppercase) && part.contains(char::is_lowercase);
    let dotted =
        name.contains('.') && (camel(parts[0]) || parts[0] == "walser") && parts.iter().any(|part| camel(part));
    if name.contains("::") || dotted || name != code || parts.len() == 1 && camel(name) {
        return parts.into_iter().map(|part| Claim::Identifier(part.to_owned())).collect();
    }
    let compound = parts.len() == 1 && name.trim_matches('_').contains('_');
    if compound { vec![Claim::Word(name.to_owned())] } else { Vec::new() }
}

// === impl Known ===

impl Known {
    fn new(paths: BTreeSet<String>, makefile: &str, sources: &[Source], protos: impl Iterator<Item = String>) -> Self {
        let targets = makefile.lines().filter_map(|line| line.split_once(':'));
        let targets =
            targets.filter(|(target, _)| !target.contains([' ', '\t', '.'])).map(|(target, _)| target.to_owned());
        // This crate names what does not exist.
        let sources: Vec<_> = sources.iter().filter(|source| source.krate() != "integration-tests/tidy").collect();
        let mut identifiers: BTreeSet<String> =
            sources.iter().flat_map(|source| source.identifiers.iter().cloned()).collect();
        for text in protos {
            let code = text.lines().filter_map(|line| line.split("//").next());
            let words = code.flat_map(|code| code.split(|char: char| !char.is_ascii_alphanumeric() && char != '_'));
            identifiers.extend(words.map(str::to_owned));
        }
        let words = sources.iter().flat_map(|source| source.literals.iter().cloned()).collect();
        Self { paths, targets: targets.collect(), identifiers, words }
    }

    /// A value of an enum is named without the prefix that proto files give it.
    fn has_word(&self, word: &str) -> bool {
        let prefixed = || self.identifiers.iter().any(|name| name.strip_suffix(word).is_some_and(|p| p.ends_with('_')));
        self.identifiers.contains(word) || self.words.contains(word) || word.contains(char::is_uppercase) && prefixed()
    }

    /// The path from the root of what `path` names from one of `bases`, or for a proto file from the folder of its kind.
    fn resolve(&self, path: &str, bases: &[String]) -> Option<String> {
        let protos = ["proto/walser/v1", "proto/walser/internal/v1"].map(str::to_owned);
        let protos = protos.into_iter().filter(|_| path.ends_with(".proto"));
        bases.iter().rev().cloned().chain(protos).map(|base| join(&base, path)).find(|path| self.paths.contains(path))
    }
}

/// Puts two paths together, without `.` and `..`.
fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')).filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn missing_in(documents: &[(&str, &str)]) -> Vec<String> {
    let sources = example(&[(
        "libs/a/src/log.rs",
        "struct Log { next_offset: u8 } impl Log { fn append(name: &str) { put(\"walser_log_bytes\") } } /* Gone */",
    )]);
    let paths = [
        "README.md",
        "docs/map.md",
        "docs",
        "libs/a",
        "libs/a/src",
        "libs/b/src",
        "libs/a/src/log.rs",
        "libs/a/src/log/scan.rs",
    ];
    let paths = [&paths[..], &["proto/walser/v1/topic.proto", "scripts/go.sh", "libs/b/src/lib.rs"]].concat();
    let proto =
        "package walser.v1; message Topic { string topic_name = 1; } enum Reason { REASON_TOPIC_GONE = 1; } // Never";
    let makefile = ".PHONY: sim\nsim: ## x\n\techo a: b\nsim-long:\n";
    let paths = paths.into_iter().map(str::to_owned).collect();
    let known = Known::new(paths, makefile, &sources, [proto.to_owned()].into_iter());
    let documents =
        documents.iter().map(|(path, text)| Document { path: (*path).to_owned(), text: (*text).to_owned() });
    what_is_missing(&known, &documents.collect::<Vec<_>>()).into_iter().collect()
}

#[test]
fn what_exists_is_not_found_missing() {
    let text = "
`libs/a/src/log.rs`, then `log/scan.rs`, `topic.proto`, `./scripts/go.sh`, `libs/{a,b}/src/`, `docs/`, `/proc`, `DIR/x/`,
`names/{id}`, `make`, `make sim SEED=1 && make sim-long`, `Log`, `Log::append`, `append()`, `Topic.topic_name`,
`walser.v1.Topic`, `TOPIC_GONE`, `next_offset`, `walser_log_bytes`, `key`, `retention.ms`, `-f x`, [x](../README.md#y),
[z](https://example.org), `a b.rs`, `java.util.Gone`, `foo.rs`, `errseq_t`.
";
    assert_eq!(missing_in(&[("docs/map.md", text)]), Vec::<String>::new());
    assert_eq!(missing_in(&[("libs/a/src/log.rs", "`scan.rs` `log.rs` `src/log.rs`")]), Vec::<String>::new());
}

#[test]
fn what_does_not_exist_is_found() {
    for gone in [
        "libs/a/src/gone.rs",
        "gone.md",
        "libs/{a,c}/src/",
        "scripts/gone",
        "make sim && make gone",
        "Gone",
        "Log::gone",
        "gone::Log",
        "gone()",
        "Topic.gone",
        "walser.v1.Gone",
        "GONE_TOPIC",
        "PIC_GONE",
        "next_gone",
        "Never",
        "src/gone/",
    ] {
        assert_eq!(missing_in(&[("docs/map.md", &format!("A `{gone}`."))]), [format!("docs/map.md: `{gone}`")]);
    }
    assert_eq!(missing_in(&[("docs/map.md", "[x](gone.md)")]), ["docs/map.md: `gone.md`"]);
    assert_eq!(missing_in(&[("docs/map.md", "`scan.rs`")]), ["docs/map.md: `scan.rs`"]);
}
