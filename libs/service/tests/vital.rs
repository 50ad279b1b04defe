//! A process that loses a vital part, as a process: this program starts itself again with a case to play.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::process::{Command, Output};
use std::time::Duration;

use walser_service::{Shutdown, vital};

/// Names the case that a child plays.
const CASE: &str = "WALSER_VITAL_CASE";

/// Plays a case in a process of its own, which runs the same test with `CASE` set. `None` in that process.
fn process(test: &str, play: impl FnOnce()) -> Option<Output> {
    if std::env::var(CASE).is_ok_and(|case| case == test) {
        play();
        return None;
    }
    let program = std::env::current_exe().unwrap();
    Some(Command::new(program).args([test, "--exact", "--nocapture"]).env(CASE, test).output().unwrap())
}

fn assert_died(output: Option<Output>, part: &str, how: &str) {
    let Some(output) = output else { return };
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(vital::EXIT_CODE), "{printed}");
    assert!(printed.contains(&format!("error: {part} {how}")), "{printed}");
}

fn shutdown() -> Shutdown {
    Shutdown::new(Duration::from_secs(1))
}

/// What a process does that does not notice the death of a part.
fn wait_for_ever() {
    loop {
        std::thread::park();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

#[test]
fn a_thread_that_panics_ends_the_process_and_is_named() {
    let output = process("a_thread_that_panics_ends_the_process_and_is_named", || {
        let _shard = vital::thread("log-shard-7", &shutdown(), || panic!("offset {} twice", 3)).unwrap();
        wait_for_ever();
    });
    assert_died(output, "log-shard-7", "panicked: offset 3 twice");
}

#[test]
fn a_thread_that_ends_before_the_stop_ends_the_process() {
    let output = process("a_thread_that_ends_before_the_stop_ends_the_process", || {
        let _flush = vital::thread("flush-0", &shutdown(), || {}).unwrap();
        wait_for_ever();
    });
    assert_died(output, "flush-0", "ended before");
}

#[test]
fn a_task_that_panics_ends_the_process_and_is_named() {
    let output = process("a_task_that_panics_ends_the_process_and_is_named", || {
        runtime().block_on(async {
            let _task = vital::task("metadata follower", &shutdown(), async {
                tokio::task::yield_now().await;
                panic!("a version went back");
            });
            std::future::pending::<()>().await;
        });
    });
    assert_died(output, "metadata follower", "panicked: a version went back");
}

#[test]
fn a_task_that_ends_before_the_stop_ends_the_process() {
    let output = process("a_task_that_ends_before_the_stop_ends_the_process", || {
        runtime().block_on(async {
            let _task = vital::task("listener", &shutdown(), async {});
            std::future::pending::<()>().await;
        });
    });
    assert_died(output, "listener", "ended before");
}

#[test]
fn a_part_that_may_end_may_still_not_panic() {
    let output = process("a_part_that_may_end_may_still_not_panic", || {
        runtime().block_on(async {
            assert_eq!(vital::must_not_panic("writer", async { 7 }).await, 7);
            tokio::spawn(vital::must_not_panic("writer", async { panic!("a batch is answered twice") }));
            std::future::pending::<()>().await;
        });
    });
    assert_died(output, "writer", "panicked: a batch is answered twice");
}

#[test]
fn parts_that_end_with_the_stop_or_with_their_runtime_do_no_harm() {
    let output = process("parts_that_end_with_the_stop_or_with_their_runtime_do_no_harm", || {
        let stop = shutdown();
        let waiting = stop.clone();
        let runtime = runtime();
        let entered = runtime.enter();
        let stopped = vital::task("stops", &stop, async move { waiting.wait().await });
        let _dropped = vital::task("dropped", &shutdown(), std::future::pending());
        drop(entered);
        stop.begin();
        vital::thread("ends", &stop, || {}).unwrap().join().unwrap();
        runtime.block_on(stopped).unwrap();
        drop(runtime);
    });
    let Some(output) = output else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
