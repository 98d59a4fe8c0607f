//! The end of sessions that nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use super::{Link, Role, Said};
use crate::driver::{self, Client, Dial, Event, LastWill};
use crate::slots;
use crate::wire::Parcel;

/// How long a session that is dissolved must have been silent.
const SILENCE: Duration = Duration::from_secs(1);

/// Dissolves a session that has nothing left.
#[derive(Debug)]
pub(super) struct Draining(tokio::task::JoinHandle<()>);

impl Draining {
    pub(super) fn begin(link: Arc<Link>, client: Client) -> Self {
        Self(tokio::spawn(async move {
            let inbox = &link.membership.inbox;
            let nowhere = link.membership.names.nowhere();
            loop {
                tokio::time::sleep(SILENCE).await;
                // What the broker sends on an acknowledgement comes before its answer to a later question.
                let quiet = async {
                    if !inbox.is_drained(link.id) {
                        return Some(false);
                    }
                    inbox.ask(link.id, &nowhere)?.await.ok()?;
                    tokio::time::sleep(SILENCE).await;
                    // What was settled meanwhile, the broker is asked for once more.
                    Some(inbox.is_drained(link.id) && inbox.is_heard(link.id))
                };
                match quiet.await {
                    Some(false) => {}
                    Some(true) => break,
                    None => return,
                }
            }
            if let Role::Heir { slot, mark } = &link.role {
                let mut control = link.lock();
                if !control.leaving {
                    control.leaving = true;
                    let place = link.membership.place(*slot);
                    control.say(&client, place, mark, Said::Dissolved);
                }
            }
        }))
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the session of a client id for good, and then takes its mark away.
pub(super) async fn erase(dial: &Dial, mark: Option<String>) {
    let will = mark.map(|place| LastWill::mark(place, String::new()));
    let dial = Dial { clean: true, expiry: Duration::ZERO, will, ..dial.clone() };
    let (client, mut connection) = driver::open(&dial);
    let erasing = async {
        while let Ok(event) = connection.next().await {
            match (event, &dial.will) {
                (Event::Connected(_), Some(will)) => {
                    client.publish(Parcel::own(will.topic.clone(), will.payload.clone(), true));
                }
                (Event::Connected(_), None) | (Event::Confirmed(..), _) => {
                    return slots::goodbye(&client, &mut connection).await;
                }
                _ => {}
            }
        }
    };
    // What is left where it fails expires by itself.
    let _ = tokio::time::timeout(dial.broker.connect_timeout, erasing).await;
}
