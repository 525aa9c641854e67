//! What the threads at a process's pipes do. Each ends when its pipe or its channel closes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender};

/// The longest line that is read.
const MAX_LINE_BYTES: usize = 1 << 20;
/// How much of a process's standard error is passed on.
const MAX_SHOWN_BYTES: usize = 16 << 10;

/// A piece of a process's output.
pub(super) enum Output {
    /// A line, without its line feed.
    Line(Vec<u8>),
    /// A line that went on for too long; nothing comes after it.
    TooLong,
}

/// Writes requests to a process.
pub(super) fn write_requests(mut stdin: impl Write, requests: &Receiver<Vec<u8>>) {
    for request in requests {
        if stdin
            .write_all(&request)
            .and_then(|()| stdin.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Reads a process's lines. It waits while the channel is full, and so does the process.
pub(super) fn read_lines(stdout: impl Read, lines: &SyncSender<Output>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        // One byte more than the limit tells a line that is too long.
        let mut limited = reader.by_ref().take(MAX_LINE_BYTES as u64 + 1);
        let is_open = matches!(limited.read_until(b'\n', &mut line), Ok(1..));
        if line.pop_if(|last| *last == b'\n').is_none() && line.len() > MAX_LINE_BYTES {
            let _ = lines.send(Output::TooLong);
            return;
        }
        if !is_open || lines.send(Output::Line(line)).is_err() {
            return;
        }
    }
}

/// Passes the beginning of a process's standard error on, and reads the rest away.
pub(super) fn drain_errors(mut stderr: impl Read) {
    // Where nobody reads our standard error, theirs is drained all the same.
    let mut shown = stderr.by_ref().take(MAX_SHOWN_BYTES as u64);
    let _ = io::copy(&mut shown, &mut io::stderr());
    let _ = io::copy(&mut stderr, &mut io::sink());
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn lines(text: &[u8]) -> Vec<Option<usize>> {
        let (sender, receiver) = sync_channel(10);
        read_lines(text, &sender);
        drop(sender);
        let length = |output| match output {
            Output::Line(line) => Some(line.len()),
            Output::TooLong => None,
        };
        receiver.into_iter().map(length).collect()
    }

    #[test]
    fn lines_are_cut_at_line_feeds_and_bounded() {
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"ab\n\nc"), [Some(2), Some(0), Some(1)]);
        let mut longest = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines(&longest), [Some(MAX_LINE_BYTES)]);
        longest.extend(b"\ny");
        assert_eq!(lines(&longest), [Some(MAX_LINE_BYTES), Some(1)]);
        longest.insert(0, b'x');
        assert_eq!(lines(&longest), [None]);
    }
}
