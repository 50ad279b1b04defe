//! What the command line does on a terminal, and not on anything else. The terminal is a pseudo-terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::group_member::Member;
use crate::server::{Server, binary, create, place, wait_a_little, write};

/// A program on a terminal of its own.
struct Terminal {
    screen: File,
    child: Child,
    shown: String,
}

/// Which of the program's streams are the terminal.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// All three.
    All,
    /// Only standard error: the output goes elsewhere.
    Errors,
}

impl Terminal {
    fn run(server: &Server, arguments: &[&str], columns: u16, on: On) -> Self {
        Self::of_size(server, arguments, (columns, 24), on)
    }

    fn of_size(server: &Server, arguments: &[&str], (columns, rows): (u16, u16), on: On) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let stream = || Stdio::from(OwnedFd::from(side.try_clone().unwrap()));
        let mut command = Command::new(binary());
        command.args(arguments).env("WALSER_SERVER", &server.address).env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("COLORTERM");
        command.stderr(stream());
        if on == On::All {
            command.stdin(stream()).stdout(stream());
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::null());
        }
        let child = command.spawn().unwrap();
        Self { screen: File::from(master), child, shown: String::new() }
    }

    fn type_in(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until the text is on the screen.
    fn expect(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "{text:?} did not come: {:?}", self.shown);
        }
    }

    /// Reads more; false: the program has closed the terminal.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // When the last user of the other side is gone, Linux answers with EIO.
        match self.screen.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Everything that was on the screen, and how the program ended.
    fn end(mut self) -> (String, ExitStatus) {
        while self.read() {}
        (self.shown, self.child.wait().unwrap())
    }
}

/// Text without the sequences that colour it and move the cursor.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        rest = sequence.find(|character: char| character.is_ascii_alphabetic()).map_or("", |at| &sequence[at + 1..]);
    }
    out + rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_colour_on_a_terminal_only() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let (shown, status) = Terminal::run(&server, &["topic", "describe", "none"], 80, On::All).end();
    assert!(shown.contains("\u{1b}[") && plain(&shown).contains("error: topic \"none\" does not exist"), "{shown:?}");
    assert_eq!(status.code(), Some(3));
    let piped = server.cli(&["topic", "describe", "none"]);
    assert!(!piped.stderr.contains(&0x1b), "{:?}", String::from_utf8_lossy(&piped.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_gets_no_bytes_that_it_would_obey() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let output = server.cli_with_input(&["produce", "t", "--as", "whole"], b"\x1b[2J\xff binary");
    assert!(output.status.success());
    for form in [&["-o", "raw"][..], &["-f", "%v\\n"]] {
        let arguments = [&["consume", "t", "-e"], form].concat();
        let (shown, status) = Terminal::run(&server, &arguments, 80, On::All).end();
        assert!(status.code() == Some(1) && plain(&shown).contains("t/0 @0 is not text"), "{shown:?}");
        assert!(!shown.contains("\u{1b}[2J"), "{shown:?}");
        let (shown, status) = Terminal::run(&server, &[&arguments[..], &["--binary"]].concat(), 80, On::All).end();
        assert!(status.success() && shown.contains("\u{1b}[2J"), "{shown:?}");
    }
    let (shown, status) = Terminal::run(&server, &["consume", "t", "-e"], 80, On::All).end();
    assert!(status.success() && !shown.contains('\u{1b}') && shown.contains("value_base64"), "{shown:?}");
    assert_eq!(server.cli_ok(&["consume", "t", "-e", "-o", "raw"]), b"\x1b[2J\xff binary", "a pipe gets them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_fit_the_terminal() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "a-topic-with-a-rather-long-name", "-p", "3", "-c", "retention.ms=7d"]);
    for columns in [80, 40] {
        for arguments in [&["topic", "ls"][..], &["topic", "describe", "*"], &["context", "ls"], &["--help"]] {
            let (shown, status) = Terminal::run(&server, arguments, columns, On::All).end();
            assert!(status.success(), "{shown}");
            // Lines of text are wrapped by the terminal; a table is not torn.
            let table = plain(&shown).lines().filter(|line| line.contains("  ")).map(|line| line.chars().count()).max();
            assert!(table.unwrap_or(0) <= 80, "{columns}: {shown}");
        }
    }
    let (narrow, _) = Terminal::run(&server, &["topic", "ls"], 40, On::All).end();
    assert!(narrow.contains("TOPIC       a-topic-with-a-rather-long-name"), "{narrow}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_readable_on_a_narrow_terminal() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "orders", 2, &[]).await;
    write(&client, "orders", 0, "x").await;
    let mut member = Member::join(&client, "billing", "orders").await;
    member.own(2).await;
    let shown = |arguments: &[&str], columns| {
        let (shown, status) = Terminal::run(&server, arguments, columns, On::All).end();
        assert!(status.success(), "{shown}");
        plain(&shown)
    };
    let wide = shown(&["group", "describe", "billing"], 80);
    assert!(wide.lines().all(|line| line.trim_end().chars().count() <= 80), "{wide}");
    // A row for each member and partition, with as much of the member's id as there is room for.
    let rows: Vec<_> = wide.lines().filter(|line| line.contains(&member.id[..8])).collect();
    assert!(rows.len() == 3 && rows[1].ends_with(&format!("{}\u{2026}", &member.id[..8])), "{wide}");
    for arguments in [&["group", "describe", "billing"][..], &["group", "lag", "billing"], &["group", "ls"]] {
        let narrow = shown(arguments, 40);
        assert!(narrow.lines().all(|line| line.trim_end().chars().count() <= 40), "{narrow}");
    }
    let whole = String::from_utf8(server.cli_ok(&["group", "describe", "billing"])).unwrap();
    assert!(whole.contains(&member.id) && whole.lines().next().unwrap().contains("1 member \u{b7}"), "{whole}");
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_typed_and_dangerous_things_are_asked_for() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut typing = Terminal::run(&server, &["produce", "t"], 80, On::All);
    typing.expect("reading records from the terminal, one per line; Ctrl-D ends");
    typing.type_in("first\nsecond\n\u{4}");
    let (shown, status) = typing.end();
    assert!(status.success() && shown.contains("2 records"), "{shown}");
    let mut asked = Terminal::run(&server, &["topic", "delete", "t"], 80, On::All);
    asked.expect("Type the name of the topic to continue: ");
    asked.type_in("u\n");
    let (shown, status) = asked.end();
    assert!(status.code() == Some(1) && shown.contains("nothing was done"), "{shown}");
    let mut half = Terminal::run(&server, &["produce", "t"], 80, On::All);
    half.expect("Ctrl-D ends");
    half.type_in("not ended\u{4}\u{4}");
    let (shown, status) = half.end();
    assert!(status.success() && shown.contains("1 record ·"), "the second Ctrl-D ends it: {shown}");
    let mut asked = Terminal::run(&server, &["topic", "delete", "t"], 80, On::All);
    asked.expect("Type the name of the topic to continue: ");
    assert!(Command::new("kill").args(["-INT", &asked.child.id().to_string()]).status().unwrap().success());
    assert_eq!(asked.end().1.code(), Some(130), "a question can be left with Ctrl-C");
    let mut asked = Terminal::run(&server, &["topic", "delete", "t"], 80, On::All);
    asked.expect("Type the name of the topic to continue: ");
    asked.type_in("t\n");
    assert!(asked.end().1.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_on_a_terminal_says_what_is_written() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    let mut typing = Terminal::run(&server, &["produce", "t"], 80, On::All);
    typing.expect("Ctrl-D ends");
    typing.type_in("one\n");
    while server.cli_ok(&["consume", "t", "-e", "-f", "%v"]) != b"one" {
        wait_a_little();
    }
    assert!(Command::new("kill").args(["-INT", &typing.child.id().to_string()]).status().unwrap().success());
    let (shown, status) = typing.end();
    assert_eq!(status.code(), Some(130), "{shown}");
    assert!(shown.contains("1 of 1 record written, 0 unknown, 0 not written"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_shows_how_far_it_is() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut long = Terminal::run(&server, &["bench", "produce", "--duration", "3s"], 80, On::Errors);
    long.expect(" records/s · ");
    long.expect(" left");
    let (shown, status) = long.end();
    assert!(status.success(), "{shown}");
    let mut feeding = Terminal::run(&server, &["produce", "t"], 80, On::Errors);
    let mut stdin = feeding.child.stdin.take().unwrap();
    // The line is drawn while input goes on coming.
    let mut number = 0;
    while !feeding.shown.contains("records/s") {
        for _ in 0..1000 {
            number += 1;
            writeln!(stdin, "{number}").unwrap();
        }
        if rustix::io::ioctl_fionread(feeding.screen.as_fd()).unwrap() > 0 {
            assert!(feeding.read());
        }
    }
    drop(stdin);
    let (shown, status) = feeding.end();
    assert!(status.success() && plain(&shown).contains(" · 0 failed · "), "{shown}");
    let piped = server.cli(&["bench", "produce", "-n", "100000"]);
    assert!(piped.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&piped.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_watched_until_ctrl_c() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut watched = Terminal::run(&server, &["status", "--watch", "1"], 80, On::All);
    watched.expect("· active · up ");
    watched.expect(" records/s, ");
    assert!(Command::new("kill").args(["-INT", &watched.child.id().to_string()]).status().unwrap().success());
    let (shown, status) = watched.end();
    assert_eq!(status.code(), Some(130));
    assert!(shown.contains(&server.address), "{shown}");
    let once = String::from_utf8(server.cli_ok(&["status"])).unwrap();
    assert!(once.contains("· up ") && once.lines().all(|line| line.chars().count() <= 80), "{once}");
}

/// What scrolls off cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_fits_a_small_terminal() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut watched = Terminal::of_size(&server, &["status", "--watch", "1"], (40, 4), On::All);
    let clear = "\u{1b}[H\u{1b}[J";
    watched.expect(clear);
    watched.expect(" more line");
    let rest = watched.shown.len();
    while !watched.shown[rest..].contains(clear) {
        assert!(watched.read());
    }
    let picture = watched.shown.split(clear).nth(1).unwrap().to_owned();
    let lines: Vec<_> = picture.lines().collect();
    assert!(lines.len() <= 4 && lines.iter().all(|line| line.chars().count() <= 40), "{picture:?}");
    assert!(lines[0].contains(&server.address) && picture.contains("OK"), "the worst comes first: {picture:?}");
    assert!(Command::new("kill").args(["-INT", &watched.child.id().to_string()]).status().unwrap().success());
    assert_eq!(watched.end().1.code(), Some(130));
}

#[test]
fn an_examination_has_signs_and_colours_on_a_terminal() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let (shown, _) = Terminal::run(&server, &["doctor"], 80, On::All).end();
    assert!(shown.contains("\u{1b}[1m\u{1b}[32m\u{2714}\u{1b}[0m the server answers calls"), "{shown:?}");
}
