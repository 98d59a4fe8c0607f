//! How far the replay has come, kept over a restart.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// The file that holds the id of the last reading of which the transport has confirmed that it has it.
///
/// It is written after the confirmation, so a crash in between repeats readings (under their own ids: nothing is stored twice) and
/// never skips one.
#[derive(Debug, Clone)]
pub struct Position {
    file: PathBuf,
}

/// The position cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PositionError {
    /// It is there, and nobody may read it.
    #[error("{} cannot be read; check who may read it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else, or the id of another data set.
    #[error("{} does not hold the id of a measurement; delete it, and the replay begins from the first", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
}

impl Position {
    /// The position of the replay whose data is in `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { file: folder.join("device_hw.position") }
    }

    /// The last reading that is known to have been published, if any.
    ///
    /// # Errors
    /// When there is a file that holds no id.
    pub fn read(&self) -> Result<Option<Uuid>, PositionError> {
        match std::fs::read_to_string(&self.file) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| self.unknown()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PositionError::Unreadable { file: self.file.clone(), source }),
        }
    }

    /// Notes that everything up to `id` has been published. Whoever dies meanwhile leaves the old note.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, id: Uuid) -> io::Result<()> {
        let new = self.file.with_extension("position-new");
        let mut file = File::create(&new)?;
        writeln!(file, "{id}")?;
        file.sync_data()?;
        std::fs::rename(new, &self.file)
    }

    /// The error of an id that is none of the data set's.
    #[must_use]
    pub fn unknown(&self) -> PositionError {
        PositionError::Unknown { file: self.file.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_last_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let position = Position::in_folder(folder.path());
        assert_eq!(position.read().unwrap(), None);
        for id in [Uuid::from_u128(1), Uuid::from_u128(2)] {
            position.note(id).unwrap();
            assert_eq!(Position::in_folder(folder.path()).read().unwrap(), Some(id));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_holds_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("device_hw.position"), "12").unwrap();
        let error = Position::in_folder(folder.path()).read().unwrap_err().to_string();
        assert!(
            error.contains("device_hw.position does not hold the id of a measurement; delete it"),
            "{error}"
        );
    }
}
