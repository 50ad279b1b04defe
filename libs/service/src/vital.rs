//! Parts without which a process cannot go on: log shards, followers of metadata, ports, timers.
//!
//! A thread or task that panics ends silently, and a process that lost one looks healthy while calls wait for ever. So
//! every vital part is started here: when it panics, or ends before the stop has begun, the process says on stderr
//! which part died and ends with [`EXIT_CODE`]; a supervisor then starts it again from what is durable. A part that is
//! dropped with its runtime has not died. Panics inside one request are not for this module: they answer `INTERNAL`.

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

use tokio::task::JoinHandle;

use crate::shutdown::Shutdown;

/// Exit code of a process that lost a vital part (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_CODE: i32 = 70;

/// Starts a vital thread. Its handle is joined at the stop.
///
/// # Errors
/// When the system gives no thread.
pub fn thread(
    name: impl Into<String>,
    shutdown: &Shutdown,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let (name, shutdown) = (name.into(), shutdown.clone());
    let builder = std::thread::Builder::new().name(name.clone());
    builder.spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            end_process(&name, &panicked(&*panic));
        }
        ended(&name, &shutdown);
    })
}

/// Starts a vital task that runs until the stop, on the runtime of the caller.
///
/// # Panics
/// Outside a runtime.
pub fn task(
    name: &'static str,
    shutdown: &Shutdown,
    body: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        must_not_panic(name, body).await;
        ended(name, &shutdown);
    })
}

/// Runs a part that may end at any time, and after whose panic the process cannot go on: it leaves state behind that
/// others wait for.
pub async fn must_not_panic<T>(name: &'static str, body: impl Future<Output = T>) -> T {
    let mut body = pin!(body);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(context))) {
        Ok(polled) => polled,
        Err(panic) => end_process(name, &panicked(&*panic)),
    })
    .await
}

fn ended(name: &str, shutdown: &Shutdown) {
    if !shutdown.begun() {
        end_process(name, "ended before the process was told to stop");
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}

/// Says which part died, and ends the process.
fn end_process(name: &str, how: &str) -> ! {
    tracing::error!(part = name, how, "a vital part of this process died: the process ends");
    let text = format!("error: {name} {how}; the process ends, report this and start it again");
    let _ = writeln!(std::io::stderr().lock(), "{text}");
    std::process::exit(EXIT_CODE)
}
