//! A running program.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread;
use std::time::Instant;

use super::pool::STOP_INTERVAL;
use super::streams::{Output, drain_errors, read_lines, write_requests};

/// Lines that may wait to be looked at.
const MAX_WAITING_LINES: usize = 16;

/// Why a process gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It ended, or closed its output.
    Died,
    /// It did not answer in time.
    TimedOut,
    /// It wrote a line without an end.
    LineTooLong,
    /// It wrote too many lines that were no answer.
    Nonsense,
    /// It could not be started again.
    CannotStart,
    /// It failed too often.
    GivenUp,
    /// Its answer is not wanted any more.
    Stopped,
}

impl Failure {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Died => "external_died",
            Self::TimedOut => "external_timeout",
            Self::LineTooLong => "external_line_too_long",
            Self::Nonsense => "external_nonsense",
            Self::CannotStart => "external_cannot_start",
            Self::GivenUp => "external_given_up",
            Self::Stopped => "external_stopped",
        }
    }
}

/// A running program, which is killed on drop. Nothing here waits for it beyond a deadline: threads
/// of its own read and write its pipes.
pub(super) struct Process {
    child: Option<Child>,
    requests: Sender<Vec<u8>>,
    output: Receiver<Output>,
}

impl Process {
    pub(super) fn start(command: &[String]) -> io::Result<Self> {
        let mut child = spawn(command)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (requests, to_write) = channel();
        let (lines, output) = sync_channel(MAX_WAITING_LINES);
        // From here on, an error kills the child.
        let process = Self {
            child: Some(child),
            requests,
            output,
        };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        in_thread("reward-stdin", move || write_requests(stdin, &to_write))?;
        in_thread("reward-stdout", move || read_lines(stdout, &lines))?;
        in_thread("reward-stderr", move || drain_errors(stderr))?;
        Ok(process)
    }

    /// Hands a request over, without waiting until the process reads it.
    pub(super) fn send(&self, request: Vec<u8>) -> Result<(), Failure> {
        self.requests.send(request).map_err(|_| Failure::Died)
    }

    /// The next line that the process writes.
    pub(super) fn line(
        &self,
        deadline: Instant,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>, Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left.min(STOP_INTERVAL)) {
                Ok(Output::Line(line)) => return Ok(line),
                Ok(Output::TooLong) => return Err(Failure::LineTooLong),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Died),
                Err(RecvTimeoutError::Timeout) if is_stopped() => return Err(Failure::Stopped),
                Err(RecvTimeoutError::Timeout) if left <= STOP_INTERVAL => {
                    return Err(Failure::TimedOut);
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        kill(&mut child);
        // A killed process can take its time to end. Without a thread it is reaped when we end.
        let _ = in_thread("reward-reaper", move || {
            let _ = child.wait();
        });
    }
}

fn spawn(command: &[String]) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut builder = Command::new(program);
    builder
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut builder, 0);
    builder.spawn()
}

/// Kills the process and, on Unix, all of its group. It must not have been waited for, since its
/// number could be another's by then.
fn kill(child: &mut Child) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    let _ = child.kill();
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.into());
    builder.spawn(work).map(drop)
}
