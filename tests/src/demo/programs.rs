//! The programs that the demo runs, as a user would run them: found beside this one, each command shown before it runs.
//!
//! A child has a process group of its own, so that Ctrl-C in the terminal reaches the demo alone, which passes it on once and waits: a
//! training that is interrupted saves its state, a server finishes what it accepted. If the demo itself is killed, the kernel ends its children.

use std::{
    env, fmt,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Stop;

/// Between two looks at a child and at the signals.
const LOOK: Duration = Duration::from_millis(50);

/// Longest that a child may take to end after a signal.
const PATIENCE: Duration = Duration::from_secs(30);

/// Signals that ask the demo to end.
#[derive(Clone, Debug)]
pub struct Signals {
    /// The latest one, 0 for none.
    latest: Arc<AtomicUsize>,
}

impl Signals {
    /// From here on Ctrl-C, SIGTERM and a closed terminal are noted instead of ending the process.
    pub fn listen() -> anyhow::Result<Self> {
        let latest = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&latest), signal as usize).context("cannot listen for signals")?;
        }
        Ok(Self { latest })
    }

    /// The signal that came, if any.
    pub fn pending(&self) -> Option<i32> {
        match self.latest.load(Ordering::Relaxed) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// # Errors
    /// [`Stop::Signal`] if one came.
    pub fn check(&self) -> Result<(), Stop> {
        self.pending().map_or(Ok(()), |signal| Err(Stop::Signal(signal)))
    }
}

/// Where the programs lie.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those beside the running program.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn beside_this_one() -> anyhow::Result<Self> {
        let this = env::current_exe().context("cannot find out where this program lies")?;
        Self::of(this.parent().expect("a program lies in a folder"))
    }

    /// Those in `folder`.
    ///
    /// # Errors
    /// As [`beside_this_one`](Self::beside_this_one).
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        for name in ["moco-train", "moco-export", "moco-serve"] {
            if !folder.join(name).is_file() {
                bail!("there is no {name} in {}: build all programs, `make build`", folder.display());
            }
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    pub fn command(&self, name: &str) -> Command {
        Command::new(self.folder.join(name))
    }
}

/// A child that ends with the demo.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
}

impl Program {
    /// Shows the command and starts it.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        say(format_args!("$ {}", shown_command(command)))?;
        let name = Path::new(command.get_program()).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        command.process_group(0);
        let parent = process::id();
        // SAFETY: between fork and exec only async-signal-safe functions may be called; signal, prctl, getppid and _exit are, and nothing is
        // allocated.
        unsafe {
            command.pre_exec(move || {
                // What is ignored stays so across exec, and a shell has its background jobs ignore SIGINT; a child must hear what is passed on.
                libc::signal(SIGINT, libc::SIG_DFL);
                libc::prctl(libc::PR_SET_PDEATHSIG, SIGTERM);
                // The parent may have died before the line above; then nobody would tell this process.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// # Errors
    /// If the program has ended, which was not asked of it.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status})", self.name),
        }
    }

    /// Waits for its end. A signal is passed on, once, and its end awaited.
    ///
    /// # Errors
    /// If it did not end with status 0; [`Stop::Signal`] after a signal.
    pub fn finish(mut self, signals: &Signals) -> anyhow::Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                // Whoever signalled the demo may have signalled its child as well: that is why it ended.
                signals.check()?;
                if !status.success() {
                    bail!("{} failed ({status})", self.name);
                }
                return Ok(());
            }
            if let Some(signal) = signals.pending() {
                self.stop(signal)?;
                return Err(Stop::Signal(signal).into());
            }
            thread::sleep(LOOK);
        }
    }

    /// Passes a signal on and waits for the end; kills what does not end in time.
    pub fn stop(&mut self, signal: i32) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        self.signal(signal);
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("{} did not end within {} s after a signal and was killed", self.name, PATIENCE.as_secs())
    }

    fn signal(&self, signal: i32) {
        let process = i32::try_from(self.child.id()).expect("a process number fits pid_t");
        // SAFETY: kill takes plain numbers; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(process, signal) };
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.stop(SIGTERM);
        }
    }
}

/// Prints a line. Unlike `println!`, a reader that left is an error and not a panic.
pub fn say(line: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A command as it would be typed, with its variables, and with paths from the current folder where they lie in it.
pub fn shown_command(command: &Command) -> String {
    let here = env::current_dir().unwrap_or_default();
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let variables = variables.map(|(name, value)| format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())));
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| quoted(&shown_path(Path::new(word), &here).to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn shown_path<'a>(path: &'a Path, here: &Path) -> &'a Path {
    match path.strip_prefix(here) {
        Ok(inside) if !inside.as_os_str().is_empty() => inside,
        _ => path,
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted() {
        let here = env::current_dir().unwrap();
        let mut command = Command::new("printf");
        command.args(["%s\n", "plain", "two words", "it's", ""]).arg(here.join("Cargo.toml")).env("LC_ALL", "C");
        let shown = shown_command(&command);
        assert_eq!(shown, "LC_ALL=C printf '%s\n' plain 'two words' 'it'\\''s' '' Cargo.toml");
        let output = Command::new("sh").args(["-c", &shown]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "plain\ntwo words\nit's\n\nCargo.toml\n");
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_name_and_status() {
        let signals = Signals { latest: Arc::default() };
        let end = |script: &str| Program::start(Command::new("sh").args(["-c", script])).unwrap().finish(&signals);
        end("exit 0").unwrap();
        assert_eq!(end("exit 3").unwrap_err().to_string(), "sh failed (exit status: 3)");
    }

    #[test]
    fn a_signal_is_passed_on_and_the_end_awaited() {
        let temporary = tempfile::tempdir().unwrap();
        let [saved, ready] = ["saved", "ready"].map(|name| temporary.path().join(name));
        let script =
            format!("trap 'echo state > {}; exit 130' INT; touch {}; while :; do sleep 0.05; done", saved.display(), ready.display());
        let signals = Signals { latest: Arc::default() };
        let program = Program::start(Command::new("sh").args(["-c", &script])).unwrap();
        thread::spawn({
            let latest = Arc::clone(&signals.latest);
            move || {
                while !ready.exists() {
                    thread::sleep(LOOK);
                }
                latest.store(SIGINT as usize, Ordering::Relaxed);
            }
        });
        let end = program.finish(&signals).unwrap_err();
        assert!(matches!(end.downcast_ref(), Some(Stop::Signal(SIGINT))), "{end}");
        assert_eq!(std::fs::read_to_string(saved).unwrap(), "state\n");
    }
}
