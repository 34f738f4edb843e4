//! Being asked to stop: SIGINT and SIGTERM set a flag that long work looks at between batches. A second one ends the
//! program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Interrupted;

#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// The exit status that the signal stands for: 128 and its number. 0 while none came.
    status: Arc<AtomicUsize>,
}

impl Stop {
    /// Listens from here on. A command that never looks at the flag must not call this: a first signal would go unheard.
    pub(crate) fn on_signals() -> Result<Self> {
        Self::listen().context("cannot listen for signals")
    }

    fn listen() -> std::io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            let status = 128 + signal;
            let again = Arc::new(AtomicBool::new(false));
            // In this order: the first signal finds `again` unset, passes, and sets it.
            flag::register_conditional_shutdown(signal, status, Arc::clone(&again))?;
            flag::register(signal, again)?;
            flag::register_usize(signal, Arc::clone(&stop.status), status as usize)?;
        }
        Ok(stop)
    }

    /// `Err(Interrupted)` once a signal came; `said` tells what the command leaves behind.
    pub(crate) fn check(&self, said: impl FnOnce() -> String) -> Result<(), Interrupted> {
        match self.status.load(Ordering::Relaxed) {
            0 => Ok(()),
            status => Err(Interrupted { exit_status: u8::try_from(status).unwrap_or(130), said: said() }),
        }
    }
}
