//! What a member has handled, on disk before it is acknowledged.
//!
//! A line is one write of a few bytes at the end of the file, so a process that is killed has written it whole or not at
//! all. It survives every death but the machine's, which no scenario brings about.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a member writes where it stood still.
const PAUSE: &str = "stood still";

/// The end that the member writes to.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Notes that message `n` was handled, now.
    pub(crate) fn note(&self, n: u64) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        (&self.0).write_all(format!("{now} {n}\n").as_bytes())
    }

    /// Notes that the process stood still.
    pub(crate) fn paused(&self) -> io::Result<()> {
        (&self.0).write_all(format!("{PAUSE}\n").as_bytes())
    }
}

/// One line: when which message was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// In nanoseconds; the clock is that of the machine, the same for all members.
    pub at: u128,
    /// The message.
    pub n: u64,
}

/// The end that the ledger reads from, while the member still writes.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    rest: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// How often the member stood still.
    pub(crate) pauses: u64,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: Vec::new(), entries: Vec::new(), pauses: 0 })
    }

    /// Reads what was written since.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in self.rest.drain(..whole).collect::<Vec<_>>().split(|byte| *byte == b'\n') {
            let entry = std::str::from_utf8(line).ok().and_then(|line| {
                let (at, n) = line.split_once(' ')?;
                Some(Entry { at: at.parse().ok()?, n: n.parse().ok()? })
            });
            match entry {
                Some(entry) => self.entries.push(entry),
                None if line == PAUSE.as_bytes() => self.pauses += 1,
                None if line.is_empty() => {}
                None => return Err(io::Error::other("a journal holds a line that is none")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_tells_what_was_handled_and_how_often_its_member_stood_still() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let (journal, mut reader) = (Journal::open(file.path())?, Reader::open(file.path())?);
        journal.note(7)?;
        journal.paused()?;
        reader.refresh()?;
        journal.note(8)?;
        reader.refresh()?;
        let handled: Vec<u64> = reader.entries.iter().map(|entry| entry.n).collect();
        assert_eq!((handled, reader.pauses), (vec![7, 8], 1));
        Ok(())
    }
}
