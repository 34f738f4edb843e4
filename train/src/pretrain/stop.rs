//! Being asked to stop: SIGINT and SIGTERM set a flag that the loop looks at between steps. A second one ends the program
//! at once, for those who cannot wait for a checkpoint.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Why a run stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// The exit status by which shells know it: 128 and the signal's number.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// A flag that says whether to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Is never asked to stop, except by [`request`](Self::request).
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens to SIGINT and SIGTERM from here on.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for (signal, kind) in [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate)] {
            let again = Arc::new(AtomicBool::new(false));
            // In this order: the first signal finds `again` unset, passes, and sets it.
            flag::register_conditional_shutdown(signal, i32::from(kind.exit_status()), Arc::clone(&again))?;
            flag::register(signal, again)?;
            flag::register_usize(signal, Arc::clone(&stop.signal), usize::from(kind.exit_status()))?;
        }
        Ok(stop)
    }

    /// Asks for a stop as the signal would.
    pub fn request(&self, signal: Signal) {
        self.signal.store(usize::from(signal.exit_status()), Ordering::Relaxed);
    }

    /// The signal that came, if one did.
    pub fn requested(&self) -> Option<Signal> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number if number == usize::from(Signal::Interrupt.exit_status()) => Some(Signal::Interrupt),
            _ => Some(Signal::Terminate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_that_came_is_remembered_by_all_clones() {
        let stop = Stop::new();
        let other = stop.clone();
        assert_eq!(other.requested(), None);
        stop.request(Signal::Terminate);
        assert_eq!(other.requested(), Some(Signal::Terminate));
        other.request(Signal::Interrupt);
        assert_eq!(stop.requested(), Some(Signal::Interrupt));
    }
}
