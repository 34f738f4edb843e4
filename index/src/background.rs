//! Work that must not take the processors from searches and writes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what was replaced is held for the searches that still read it.
const LONGEST_SEARCH: Duration = Duration::from_secs(1);

/// Does `work` on a thread that leaves the processors to others where they want them.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn run<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    // A schedule explorer has no threads of another priority.
    if cfg!(test) {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        // A thread of its own: without a privilege, a priority that was lowered cannot be raised again.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, || {
            lower_priority();
            let outcome = work();
            give_back_arena();
            outcome
        })?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Gives back the memory of what was replaced, here and not in the search that is the last to read them: to unmap
/// a file takes milliseconds.
pub(crate) fn retire<T>(replaced: Vec<Arc<T>>) {
    // The schedules of an explorer have no clock.
    if cfg!(test) {
        return;
    }
    let deadline = Instant::now() + LONGEST_SEARCH;
    for old in replaced {
        while Arc::strong_count(&old) > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives the system the memory that was freed, which glibc keeps: a build takes several times what stays of it. Others that
/// ask for memory meanwhile wait.
pub(crate) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        give_back_arena();
        // SAFETY: it takes a number, and locks what it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Gives back the free end of the calling thread's arena, which `malloc_trim` leaves alone in all arenas but the first. For
/// threads that end: the next ones may be given other arenas.
///
/// glibc does so itself when a block is freed and the end is longer than a threshold, which it raises, to 64 MiB at most,
/// after blocks that were freed. To set it for a moment ends that raising for the whole process: from then on blocks of 8 MiB
/// are mapped one by one, and an arena keeps 16 MiB at its end. Where the environment has settings of its own for glibc,
/// they stay, and so does the memory.
pub(crate) fn give_back_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    {
        const MAPPED_FROM: libc::c_int = 8 << 20;
        const KEPT: libc::c_int = 2 * MAPPED_FROM;
        const SETTINGS: [&str; 4] = ["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"];
        /// Freeing less than 64 KiB does not make glibc look.
        const BLOCK: usize = 128 << 10;
        static TURNS: std::sync::Mutex<()> = std::sync::Mutex::new(());
        if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
            return;
        }
        let _turn = TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: numbers. Others that allocate meanwhile read the words that this sets without a lock, old or new; at worst they
        // give back the ends of their own arenas too.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 0);
        }
        drop(std::hint::black_box(Vec::<u8>::with_capacity(BLOCK)));
        // SAFETY: as above.
        unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) };
    }
}

/// The calling thread, and those it starts, get a tenth of a processor that others want too. Elsewhere than on Linux, where
/// priorities are not of threads, they stay equals.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        const NICE: libc::c_int = 10;
        // SAFETY: plain numbers; 0 is the calling thread. It cannot fail for a thread of our own, and if it did, would cost speed only.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    }
}
