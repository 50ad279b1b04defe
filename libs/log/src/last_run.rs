//! How the last run on a data directory ended: whether the page cache, to which records of some topics are only written,
//! may have been lost with it (rule R20).
//!
//! The page cache outlives a process, but not the operating system below it. So an end is unclean where neither the
//! directory was closed in good order nor the system is still the one that was running then. So it is, however it ends,
//! where a sync has failed: the system may have dropped from the page cache what it could not write. That is remembered
//! until [`LastRun::told`]: a later run that ends well changes nothing about what the one before has lost.
//!
//! ```text
//! "WRUN" | version u16 | state u16: 1 runs, 2 was closed, 3 unclean and not told | id of the boot, 16 bytes | CRC-32C u32
//! 28 bytes, big-endian; zeros: the system has no such id
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, BufMut as _};
use parking_lot::Mutex;

use crate::checked::{seal, take, unseal};
use crate::disk::{Disk, overwrite_file, read_file};

pub(crate) const FILE_NAME: &str = "last-run";
pub(crate) const TEMPORARY_NAME: &str = "last-run.tmp";
const MAGIC: &[u8; 4] = b"WRUN";
const VERSION: u16 = 1;
const LEN: usize = 28;

/// Which run of the operating system this is: another one begins with an empty page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId([u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The directory is in use, or its process was killed.
    Runs,
    /// Everything was on stable storage when the directory was closed.
    Closed,
    /// What was only in the page cache may be lost, and nobody has been told.
    Unclean,
}

/// The file that says so.
#[derive(Debug)]
pub(crate) struct LastRun {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    boot: Option<BootId>,
    /// As the file has it.
    state: Mutex<State>,
    unflushed: AtomicBool,
    /// The file says [`State::Unclean`] of this run, whatever becomes of it.
    failed: AtomicBool,
}

// === impl BootId ===

impl BootId {
    /// The id of the system as it runs now. `None`: it has none, as everywhere but on Linux.
    pub fn of_system() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits = text.trim().replace('-', "");
        (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok())?.map(|id| Self(id.to_be_bytes()))
    }
}

// === impl LastRun ===

impl LastRun {
    /// Begins a run: notes durably that the directory is in use, and how the last run ended. `used`: the directory has
    /// belonged to a node before; without a file it is of an earlier version then, and nobody knows. `boot`: of the system
    /// as it runs now, where it has an id.
    ///
    /// # Errors
    /// I/O errors. A file that makes no sense counts as an unclean end.
    pub(crate) fn begin(disk: Arc<dyn Disk>, root: &Path, used: bool, boot: Option<BootId>) -> io::Result<Self> {
        let path = root.join(FILE_NAME);
        let bytes = read_file(&*disk, &path, LEN as u64 + 1)?;
        let last = bytes.as_deref().map(decode);
        let clean = match last {
            None => !used,
            Some(None | Some((State::Unclean, _))) => false,
            Some(Some((State::Closed, _))) => true,
            Some(Some((State::Runs, then))) => then.is_some() && then == boot,
        };
        let state = if clean { State::Runs } else { State::Unclean };
        let run = Self {
            disk,
            path,
            boot,
            state: Mutex::new(state),
            unflushed: AtomicBool::default(),
            failed: AtomicBool::default(),
        };
        if last.flatten() != Some((state, boot)) {
            run.write(state)?;
        }
        Ok(run)
    }

    /// Whether an unclean end has to be told.
    pub(crate) fn ended_unclean(&self) -> bool {
        *self.state.lock() == State::Unclean
    }

    /// The unclean end is recorded where it counts.
    ///
    /// # Errors
    /// I/O errors; it is told again then.
    pub(crate) fn told(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if *state == State::Unclean {
            if !self.failed.load(Ordering::Acquire) {
                self.write(State::Runs)?;
            }
            *state = State::Runs;
        }
        Ok(())
    }

    /// What was only in the page cache may be lost although the system runs on: the next run tells it, whatever comes.
    ///
    /// # Errors
    /// I/O errors; it is not noted then.
    pub(crate) fn note_failed(&self) -> io::Result<()> {
        let _state = self.state.lock();
        if !self.failed.load(Ordering::Acquire) {
            self.write(State::Unclean)?;
            self.failed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Something stays behind that is not on stable storage: [`LastRun::close`] does nothing any more.
    pub(crate) fn leave_unflushed(&self) {
        self.unflushed.store(true, Ordering::Release);
    }

    /// Everything in the directory is on stable storage, and nothing will be written any more. An unclean end that was not
    /// told is told next time.
    ///
    /// # Errors
    /// I/O errors; the run counts as killed then.
    pub(crate) fn close(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let keeps = self.unflushed.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire);
        if *state == State::Runs && !keeps {
            self.write(State::Closed)?;
            *state = State::Closed;
        }
        Ok(())
    }

    fn write(&self, state: State) -> io::Result<()> {
        overwrite_file(&*self.disk, &self.path, &encode(state, self.boot))
    }
}

fn encode(state: State, boot: Option<BootId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN);
    out.put_slice(MAGIC);
    out.put_u16(VERSION);
    out.put_u16(match state {
        State::Runs => 1,
        State::Closed => 2,
        State::Unclean => 3,
    });
    out.put_slice(&boot.map_or([0; 16], |boot| boot.0));
    seal(&mut out, 0);
    assert_eq!(out.len(), LEN, "the file has a fixed length");
    out
}

fn decode(bytes: &[u8]) -> Option<(State, Option<BootId>)> {
    let mut body = unseal(bytes).filter(|_| bytes.len() == LEN)?;
    let (magic, version) = (take(&mut body)?, body.try_get_u16().ok()?);
    let state = match body.try_get_u16().ok().filter(|_| &magic == MAGIC && version == VERSION)? {
        1 => State::Runs,
        2 => State::Closed,
        3 => State::Unclean,
        _ => return None,
    };
    let boot = take(&mut body)?;
    Some((state, (boot != [0; 16]).then_some(BootId(boot))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, PowerLoss};

    const FIRST: Option<BootId> = Some(BootId([1; 16]));
    const SECOND: Option<BootId> = Some(BootId([2; 16]));

    fn disk() -> MemoryDisk {
        let memory = MemoryDisk::simulated(1 << 20);
        memory.create_dir(Path::new("/data")).unwrap();
        memory.sync_dir(Path::new("/")).unwrap();
        memory
    }

    fn begin(memory: &MemoryDisk, used: bool, boot: Option<BootId>) -> LastRun {
        LastRun::begin(Arc::new(memory.clone()), Path::new("/data"), used, boot).unwrap()
    }

    #[test]
    fn a_killed_process_leaves_the_page_cache_and_a_restarted_system_does_not() {
        let memory = disk();
        assert!(!begin(&memory, false, FIRST).ended_unclean(), "a new directory");
        let killed = memory.restart_process();
        assert!(!begin(&killed, true, FIRST).ended_unclean());
        let lost = killed.lose_power(PowerLoss::Everything);
        assert!(begin(&lost, true, SECOND).ended_unclean());
    }

    #[test]
    fn after_a_stop_in_good_order_the_power_may_go() {
        let memory = disk();
        begin(&memory, false, FIRST).close().unwrap();
        let lost = memory.lose_power(PowerLoss::Everything);
        let run = begin(&lost, true, SECOND);
        assert!(!run.ended_unclean());
        // The run that has begun since was not closed in good order.
        run.leave_unflushed();
        run.close().unwrap();
        let lost = lost.lose_power(PowerLoss::Everything);
        assert!(begin(&lost, true, FIRST).ended_unclean());
    }

    #[test]
    fn an_unclean_end_is_remembered_until_it_is_told() {
        let memory = disk();
        drop(begin(&memory, false, FIRST));
        let untold = begin(&memory, true, SECOND);
        untold.close().unwrap();
        let again = begin(&memory, true, SECOND);
        assert!(again.ended_unclean(), "a later run that ended well, or was killed, changes nothing");
        again.told().unwrap();
        assert!(!again.ended_unclean());
        again.close().unwrap();
        assert!(!begin(&memory, true, FIRST).ended_unclean());
    }

    /// The system drops what it could not write, and says so once.
    #[test]
    fn after_a_failed_sync_the_end_is_unclean_also_in_the_same_boot_and_after_a_stop_in_good_order() {
        for closed in [false, true] {
            let memory = disk();
            let run = begin(&memory, false, FIRST);
            run.note_failed().unwrap();
            assert!(!run.ended_unclean(), "how the run before has ended");
            run.told().unwrap();
            if closed {
                run.close().unwrap();
            }
            let next = begin(&memory, true, FIRST);
            assert!(next.ended_unclean());
            next.told().unwrap();
            assert!(!begin(&memory, true, FIRST).ended_unclean());
        }
        let memory = disk();
        drop(begin(&memory, false, FIRST));
        let run = begin(&memory, true, SECOND);
        run.note_failed().unwrap();
        run.told().unwrap();
        assert!(!run.ended_unclean());
        assert!(begin(&memory, true, SECOND).ended_unclean(), "what was told is the end before");
    }

    #[test]
    fn without_an_id_a_file_or_with_a_damaged_one_the_end_is_unclean() {
        let memory = disk();
        assert!(begin(&memory, true, FIRST).ended_unclean(), "of an earlier version");
        let memory = disk();
        drop(begin(&memory, false, None));
        assert!(begin(&memory, true, None).ended_unclean(), "the system has no id");
        let memory = disk();
        begin(&memory, false, FIRST).close().unwrap();
        memory.flip_bit(&Path::new("/data").join(FILE_NAME), 7, 1);
        assert!(begin(&memory, true, FIRST).ended_unclean());
    }

    #[test]
    fn on_a_disk_without_a_free_byte_the_state_still_changes() {
        let memory = disk();
        let run = begin(&memory, false, FIRST);
        let space = memory.space(Path::new("/data")).unwrap();
        memory.set_capacity(space.total - space.free);
        run.close().unwrap();
        assert!(!begin(&memory, true, SECOND).ended_unclean());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_system_has_an_id() {
        assert_eq!(BootId::of_system(), BootId::of_system());
        assert!(BootId::of_system().is_some_and(|boot| boot.0 != [0; 16]));
    }

    #[test]
    fn the_bytes_of_the_format_are_these() {
        let golden = b"WRUN\0\x01\0\x03";
        let bytes = encode(State::Unclean, SECOND);
        assert_eq!((&bytes[..8], &bytes[8..24], bytes.len()), (&golden[..], &[2; 16][..], LEN));
        assert_eq!(decode(&bytes), Some((State::Unclean, SECOND)));
        assert_eq!(decode(&encode(State::Runs, None)), Some((State::Runs, None)));
        assert_eq!(decode(&bytes[..27]), None);
    }
}
