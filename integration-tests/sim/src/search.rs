//! Seeds in turn, on several threads, until enough has happened.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happened in a run, and in several.
pub(crate) trait Counted: Default + Send {
    fn add(&mut self, more: Self);

    fn events(&self) -> u64;
}

/// Runs seeds from `from` on until there are `events`.
///
/// # Errors
/// The first violation that a thread finds.
pub(crate) fn search<T: Counted>(
    from: u64,
    threads: usize,
    events: u64,
    run: impl Fn(u64) -> Result<T, String> + Sync,
) -> Result<T, String> {
    let (next, total) = (AtomicU64::new(from), Mutex::new(T::default()));
    let worker = || -> Result<(), String> {
        loop {
            let counted = run(next.fetch_add(1, Ordering::Relaxed))?;
            let mut total = total.lock().expect("no thread panics with it");
            total.add(counted);
            if total.events() >= events {
                return Ok(());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    Ok(total.into_inner().expect("no thread panics with it"))
}
