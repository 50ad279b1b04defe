//! Questions before what cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use crate::error::CliError;
use crate::output;

/// Asks for the names before something is lost. `kind`: what the names are of.
pub(super) async fn confirm(kind: &str, names: &[&str], yes: bool, what: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let error = CliError::usage("this cannot be undone, and there is no terminal to ask on: nothing was done");
        return Err(error.with_help("say --yes if you mean it"));
    }
    output::note(what);
    let (asked, expected) = match names {
        [name] => (format!("Type the name of the {kind} to continue: "), (*name).to_owned()),
        names => (format!("Type the number of {kind}s, {}, to continue: ", names.len()), names.len().to_string()),
    };
    let _ = write!(std::io::stderr(), "{asked}");
    // On a thread of its own: meanwhile Ctrl-C is heard.
    let typed = tokio::task::spawn_blocking(|| {
        let mut typed = String::new();
        std::io::stdin().read_line(&mut typed).map(|_| typed)
    });
    let typed = typed.await.map_err(|error| CliError::failed(error.to_string()))??;
    if typed.trim() == expected { Ok(()) } else { Err(CliError::failed("that is something else: nothing was done")) }
}
