//! What operators ask.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use msgkit::envelope::structured;
use msgkit::transport::{Destination, Group, GroupStatus, Operate, Peeked, TransportError};

use crate::error::{failed, missing};
use crate::transport::Files;
use crate::turn::{Turn, names};
use crate::wire::{Name, read, unknown_topic};

#[async_trait]
impl Operate for Files {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let counting = self.store().run(|turn| {
            let mut all = Vec::new();
            for (group, _) in turn.groups()? {
                let place = turn.place(&group);
                let count = |room: &str| {
                    let directory = place.join(room);
                    names(&directory)
                        .map(|names| names.len() as u64)
                        .map_err(|error| failed(&directory, error))
                };
                let mut status = GroupStatus::new(group);
                // In this turn nothing is published or claimed, so a message can only be settled or given back, and is
                // never missed: `in-hand/` is counted before `ready/`.
                status.in_hand = Some(count("in-hand")?);
                status.waiting = count("ready")?;
                status.delayed = count("delayed")?;
                all.push(status);
            }
            Ok(all)
        });
        counting.await
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let (group, after) = (group.clone(), after.map(number).transpose()?);
        let looking = self.store().run(move |turn| {
            is_declared(turn, &group)?;
            page(&turn.place(&group).join("ready"), after, limit)
        });
        looking.await
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let (group, after) = (group.clone(), after.map(number).transpose()?);
        self.store().run(move |turn| page(&turn.place(&group).join("dead"), after, limit)).await
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let (group, position) = (group.clone(), number(position)?);
        let replaying = self.store().run(move |turn| {
            let letter = letter(turn, &group, position)?;
            is_declared(turn, &group)?;
            let at = |error| failed(&letter, error);
            let body = fs::read(&letter).map_err(at)?;
            let envelope = structured::from_slice(&body, &unknown_topic()).map_err(|error| {
                missing(format!("dead letter {position} cannot be read")).with_source(error)
            })?;
            let ready = turn.place(&group).join("ready");
            let copy = ready.join(Name::new(turn.numbers(1)?, None).to_string());
            turn.put(&copy, &structured::to_vec(&envelope.replayed())).map_err(at)?;
            turn.sync(&[&ready]).map_err(at)?;
            // Dying here leaves both, and the next replay makes a duplicate; the other way round it could be lost.
            fs::remove_file(&letter).map_err(at)
        });
        replaying.await
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let (group, position) = (group.clone(), number(position)?);
        let removing = self.store().run(move |turn| {
            let letter = letter(turn, &group, position)?;
            fs::remove_file(&letter).map_err(|error| failed(&letter, error))
        });
        removing.await
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        // What is kept back lies together, whatever its step; a topic is no place here.
        let Destination::DeadLetter(group) = destination.clone() else { return Ok(None) };
        let counting = self.store().run(move |turn| {
            let dead = turn.place(&group).join("dead");
            names(&dead).map(|names| Some(names.len() as u64)).map_err(|error| failed(&dead, error))
        });
        counting.await
    }
}

fn is_declared(turn: &Turn<'_>, group: &Group) -> Result<(), TransportError> {
    match turn.groups()?.iter().any(|(known, _)| known == group) {
        true => Ok(()),
        false => Err(missing(format!("group `{group}` is not declared here; declare it first"))),
    }
}

/// The messages of a directory behind the number `after`. What is gone before it is read is left out.
fn page(directory: &Path, after: Option<u64>, limit: usize) -> Result<Vec<Peeked>, TransportError> {
    let names = names(directory).map_err(|error| failed(directory, error))?;
    let wanted = names.into_iter().filter(|name| after.is_none_or(|after| name.number > after));
    let read = wanted.filter_map(|name| {
        let body = fs::read(directory.join(name.to_string())).ok()?;
        Some(Peeked::new(read(body), name.number.to_string()))
    });
    Ok(read.take(limit).collect())
}

/// The file of the dead letter at `position`.
fn letter(turn: &Turn<'_>, group: &Group, position: u64) -> Result<PathBuf, TransportError> {
    let dead = turn.place(group).join("dead");
    let names = names(&dead).map_err(|error| failed(&dead, error))?;
    let found = names.into_iter().find(|name| name.number == position);
    found.map(|name| dead.join(name.to_string())).ok_or_else(|| {
        missing(format!("group `{group}` has no dead letter at {position}; take a position from a listing"))
    })
}

fn number(position: &str) -> Result<u64, TransportError> {
    position.parse().map_err(|_| {
        missing(format!("`{position:.40}` is no position of a files transport; take one from a listing"))
    })
}
