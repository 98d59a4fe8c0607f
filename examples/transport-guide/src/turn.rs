//! What a connection does in its turn: nobody else publishes, claims or declares meanwhile, in this process or another.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use msgkit::transport::{Destination, Group, TransportError, TransportErrorKind};
use msgkit::{Pattern, Topic};

use crate::error::failed;
use crate::store::{Store, if_there};
use crate::wire::{Name, Parcel};

/// A turn; dropping it closes the lock file and so ends it.
pub(crate) struct Turn<'a> {
    pub(crate) store: &'a Store,
    pub(crate) _lock: File,
}

impl Turn<'_> {
    /// The directory of a group, whether it is there or not.
    pub(crate) fn place(&self, group: &Group) -> PathBuf {
        self.store.root.join("groups").join(group.as_str())
    }

    /// The same, made where it is not there.
    fn made(&self, group: &Group) -> io::Result<PathBuf> {
        let place = self.place(group);
        if !place.join("dead").exists() {
            for room in ["ready", "in-hand", "delayed", "dead"] {
                fs::create_dir_all(place.join(room))?;
            }
            self.sync(&[&place, &self.store.root.join("groups")])?;
        }
        Ok(place)
    }

    /// Makes a place for what has failed in a group.
    pub(crate) fn make(&self, group: &Group) -> Result<(), TransportError> {
        self.made(group).map(drop).map_err(|error| failed(&self.place(group), error))
    }

    /// Makes a group that takes `wanted` from now on, besides what it took before: an older version of the same service
    /// may still run. To narrow it, edit the file while nothing runs.
    pub(crate) fn declare(&self, group: &Group, wanted: &[Pattern]) -> Result<(), TransportError> {
        let place = self.place(group);
        let declaring = || {
            let known = patterns(&self.made(group)?)?;
            let new = wanted.iter().filter(|pattern| !known.iter().flatten().any(|old| old == *pattern));
            let text: Vec<String> = known.iter().flatten().chain(new).map(ToString::to_string).collect();
            if known.as_ref().is_none_or(|known| known.len() < text.len()) {
                self.put(&place.join("patterns"), text.join("\n").as_bytes())?;
                self.sync(&[&place])?;
            }
            Ok(())
        };
        declaring().map_err(|error| failed(&place, error))
    }

    /// Every declared group with what it takes.
    pub(crate) fn groups(&self) -> Result<Vec<(Group, Vec<Pattern>)>, TransportError> {
        let directory = self.store.root.join("groups");
        let read = || {
            let mut groups = Vec::new();
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                // A place without patterns was made for dead letters, and takes nothing else.
                if let (Some(patterns), Ok(name)) =
                    (patterns(&entry.path())?, entry.file_name().into_string())
                    && let Ok(group) = Group::new(name)
                {
                    groups.push((group, patterns));
                }
            }
            groups.sort_by(|one, other| one.0.cmp(&other.0));
            Ok(groups)
        };
        read().map_err(|error| failed(&directory, error))
    }

    /// Writes every parcel in its order, and to the disk where that is asked for. An error tells how many were taken.
    pub(crate) fn publish(&self, parcels: &[Parcel]) -> Result<(), (usize, TransportError)> {
        let groups = self.groups().map_err(|error| (0, error))?;
        let first = self.numbers(parcels.len()).map_err(|error| (0, error))?;
        let (mut touched, mut taken, mut refused) = (BTreeSet::new(), 0, None);
        for (number, parcel) in (first..).zip(parcels) {
            if let Err(error) = self.deliver(parcel, number, &groups, &mut touched) {
                // Nothing may overtake what was not taken, so all that follows is not taken either. Where a group has it
                // already and the next one does not, publishing it again doubles it there: a duplicate, never a loss.
                refused = Some((taken, error));
                break;
            }
            taken += 1;
        }
        // The caller hears of success after this line only. Dying before it: the messages may be there, nobody was told.
        let directories: Vec<&Path> = touched.iter().map(PathBuf::as_path).collect();
        self.sync(&directories).map_err(|error| (0, failed(&self.store.root, error)))?;
        refused.map_or(Ok(()), Err)
    }

    fn deliver(
        &self,
        parcel: &Parcel,
        number: u64,
        groups: &[(Group, Vec<Pattern>)],
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<(), TransportError> {
        let takers = |topic: &Topic| -> Vec<&Group> {
            let take = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(topic));
            groups.iter().filter(|(_, patterns)| take(patterns)).map(|(group, _)| group).collect()
        };
        let (room, due, to) = match &parcel.to {
            Destination::DeadLetter(group) => ("dead", None, vec![group]),
            // The copy of what failed is for its group alone, and lies there until it is due.
            Destination::Retry { group, .. } => ("delayed", Some(parcel.due.unwrap_or(0)), vec![group]),
            Destination::Topic { topic, .. } => match parcel.due {
                Some(due) => ("delayed", Some(due), takers(topic)),
                None => ("ready", None, takers(topic)),
            },
            other => {
                let text = format!("the files transport knows no destination like `{other}`; update it");
                return Err(TransportError::new(TransportErrorKind::Unsupported, text));
            }
        };
        for group in to {
            let mut writing = || {
                let room = self.made(group)?.join(room);
                self.put(&room.join(Name::new(number, due).to_string()), &parcel.body)?;
                touched.insert(room);
                Ok(())
            };
            writing().map_err(|error| failed(&self.place(group), error))?;
        }
        Ok(())
    }

    /// The first of `count` numbers that nobody else gets, ever: on the disk before one of them is used, or a number
    /// could be given twice after a power cut, and its file would take the place of another.
    pub(crate) fn numbers(&self, count: usize) -> Result<u64, TransportError> {
        let path = self.store.root.join("last");
        let taking = || {
            let last = match fs::read_to_string(&path) {
                Ok(text) => {
                    text.parse::<u64>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            // Dying after this line leaves a gap in the numbers, which nobody minds.
            self.put(&path, (last + count as u64).to_string().as_bytes())?;
            self.sync(&[&self.store.root])?;
            Ok(last + 1)
        };
        taking().map_err(|error| failed(&path, error))
    }

    /// Writes a file that is whole or absent.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = self.store.root.join("new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        if self.store.config.sync {
            file.sync_all()?;
        }
        // Dying before this line leaves a `new` that the next writer begins again; after it the file is there, whole.
        fs::rename(new, path)
    }

    /// Waits until the disk has the names in `directories`.
    pub(crate) fn sync(&self, directories: &[&Path]) -> io::Result<()> {
        if self.store.config.sync {
            for directory in directories {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Moves what is due from `delayed/` to `ready/`, then lists what is ready, the oldest first.
    pub(crate) fn ready(&self, place: &Path) -> io::Result<Vec<Name>> {
        let now = u64::try_from(self.store.clock.now().as_micros()).unwrap_or(0);
        let (delayed, ready) = (place.join("delayed"), place.join("ready"));
        for name in names(&delayed)?.into_iter().take_while(|name| name.due <= Some(now)) {
            // Dying before or after this line: it is in one place or the other, and the next reader goes on.
            if_there(fs::rename(delayed.join(name.to_string()), ready.join(name.ready().to_string())))?;
        }
        names(&ready)
    }
}

/// The messages in a directory, in their order; a directory that is not there has none.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<Name>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().to_str().and_then(Name::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// What a group takes; `None` where it was never declared.
fn patterns(place: &Path) -> io::Result<Option<Vec<Pattern>>> {
    let text = match fs::read_to_string(place.join("patterns")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = text.lines().map(str::parse).collect::<Result<_, msgkit::Error>>();
    read.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
