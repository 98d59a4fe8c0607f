//! Declaring: a group exists once a session is subscribed for it, and misses nothing from then on.

use std::collections::BTreeSet;

use msgkit::Pattern;
use msgkit::transport::{Declaration, Group, Subscription, Transport, TransportError, TransportErrorKind};

use crate::driver::{self, Dial, Event, Filter};
use crate::error::no_answer;
use crate::publisher::keeps_no_letters;
use crate::slots::{self, Lanes, Mark, Slots};
use crate::subscriber::Filters;
use crate::transport::Mqtt;
use crate::wire::Parcel;

/// How often a slot may be taken by somebody else before declaring gives up.
const TRIES: u32 = 5;

impl Mqtt {
    pub(crate) async fn declare_one(&self, declaration: &Declaration) -> Result<(), TransportError> {
        match declaration {
            Declaration::Group { subscription, retry_steps, dead_letters } => {
                self.capabilities().admit("mqtt", subscription)?;
                let Some(group) = &subscription.group else { return Ok(()) };
                if *dead_letters {
                    return Err(keeps_no_letters(group));
                }
                let steps = u32::try_from(retry_steps.len()).unwrap_or(u32::MAX);
                self.declare_group(group, subscription, steps).await
            }
            Declaration::DeadLetters(group) => Err(keeps_no_letters(group)),
            // A topic needs no place of its own.
            _ => Ok(()),
        }
    }

    async fn declare_group(
        &self,
        group: &Group,
        subscription: &Subscription,
        steps: u32,
    ) -> Result<(), TransportError> {
        let mut lanes = self.survey(group).await?;
        let topics = Filters::of(self.names(), subscription);
        if let Some(patterns) = missing(&lanes, &topics) {
            slots::write_patterns(&self.dial(), self.names(), group, patterns).await?;
        }
        self.declare_lane(group, 0, &topics, &mut lanes).await?;
        // Suspects and replays take the first step, also where nothing is ever delayed.
        for step in 1..=steps.max(1) {
            self.declare_step(group, step, &mut lanes).await?;
        }
        Ok(())
    }

    /// Makes the session of a delay step before something is published to it.
    pub(crate) async fn ensure_step(&self, group: &Group, step: u32) -> Result<(), TransportError> {
        if self.steps().contains(&(group.clone(), step)) {
            return Ok(());
        }
        let mut lanes = self.survey(group).await?;
        self.declare_step(group, step, &mut lanes).await
    }

    async fn declare_step(&self, group: &Group, step: u32, lanes: &mut Lanes) -> Result<(), TransportError> {
        let filters = Filters::shared_by(Some(group), vec![self.names().retry(group, step)]);
        self.declare_lane(group, step, &filters, lanes).await?;
        self.steps().insert((group.clone(), step));
        Ok(())
    }

    async fn survey(&self, group: &Group) -> Result<Lanes, TransportError> {
        slots::survey(&self.dial(), self.names(), group).await
    }

    fn dial(&self) -> Dial {
        Dial {
            broker: self.broker().clone(),
            client_id: self.config().client_id.clone(),
            clean: false,
            expiry: self.config().session_expiry,
            receive: 1,
            will: None,
        }
    }

    async fn declare_lane(
        &self,
        group: &Group,
        lane: u32,
        filters: &Filters,
        lanes: &mut Lanes,
    ) -> Result<(), TransportError> {
        for _ in 0..TRIES {
            let slots = &lanes.entry(lane).or_default().slots;
            // Members that are there are subscribed; with more patterns they are once one of them has been restarted.
            if slots.values().any(|mark| !mark.is_vacant()) {
                return Ok(());
            }
            if let Made::Yes = self.make(group, lane, filters, slots).await? {
                return Ok(());
            }
            *lanes = self.survey(group).await?;
        }
        Err(TransportError::new(
            TransportErrorKind::Unavailable,
            format!(
                "the sessions of group `{group}` change hands all the time; do two systems share `client_id`?"
            ),
        ))
    }

    /// Subscribes the session of a slot that nobody holds, and leaves it to itself.
    async fn make(
        &self,
        group: &Group,
        lane: u32,
        filters: &Filters,
        slots: &Slots,
    ) -> Result<Made, TransportError> {
        let slot = slots.keys().next().copied().unwrap_or(0);
        let known = slots.get(&slot).map(|mark| mark.filters.as_slice()).unwrap_or_default();
        // A plain subscription is given up by a member alone, once a keeper stands.
        let sharing = slots::are_others(slots, slot) && !slots.get(&slot).is_some_and(Mark::is_plain);
        // Sessions may hold what earlier versions have declared.
        let earlier = slots.values().flat_map(|mark| &mark.patterns);
        let patterns = earlier.chain(&filters.patterns).cloned().collect();
        let (stale, filters) = (filters.stale(sharing, known), filters.those(sharing));
        let mut mark = Mark::vacant(filters).taking(patterns);
        let mut open = stale.len();
        let place = self.names().slot(group, lane, slot);
        let client_id = slots::client_id(&self.config().client_id, group, lane, slot);
        let (client, mut connection) = driver::open(&Dial { client_id, ..self.dial() });
        let making = async {
            loop {
                match connection.next().await {
                    Ok(Event::Connected(_)) => {
                        let wanted: Vec<Filter> = filters
                            .iter()
                            .map(|name| Filter { name: name.clone(), confirmed: true, retained: false })
                            .collect();
                        client.subscribe(&wanted);
                    }
                    Ok(Event::Subscribed(granted)) => {
                        granted.map_err(|failure| failure.to_error())?;
                        // Only now: what is refused must not leave the session without what it had.
                        for filter in &stale {
                            client.unsubscribe(filter);
                        }
                        if open == 0 {
                            client.publish(Parcel::own(place.clone(), mark.write(), true));
                        }
                    }
                    Ok(Event::Unsubscribed(filter, refused)) => {
                        if let Some(why) = refused {
                            let error = driver::not_ended(&filter, &why);
                            tracing::warn!(%error, %group, "what is not wanted any more may come still");
                            // For whoever takes the session over.
                            mark.filters.push(filter);
                        }
                        open = open.saturating_sub(1);
                        if open == 0 {
                            client.publish(Parcel::own(place.clone(), mark.write(), true));
                        }
                    }
                    Ok(Event::Confirmed(_, confirmation)) => {
                        confirmation.taken(&place).map_err(|failure| failure.to_error())?;
                        slots::goodbye(&client, &mut connection).await;
                        return Ok(Made::Yes);
                    }
                    // Messages that come meanwhile stay unacknowledged, and so in the session.
                    Ok(_) => {}
                    Err(broken) if broken.taken_over => return Ok(Made::TakenOver),
                    Err(broken) => return Err(broken.failure.to_error()),
                }
            }
        };
        match tokio::time::timeout(self.broker().connect_timeout, making).await {
            Ok(made) => made,
            Err(_) => Err(no_answer(
                &self.broker().address.to_string(),
                &format!("the declaration of group `{group}`"),
            )),
        }
    }
}

/// What the group takes, where that is more than is written.
fn missing(lanes: &Lanes, topics: &Filters) -> Option<BTreeSet<Pattern>> {
    let Some(lane) = lanes.get(&0) else { return Some(topics.patterns.clone()) };
    let marks = lane.slots.values().flat_map(|mark| &mark.patterns);
    let all: BTreeSet<Pattern> = marks.chain(&lane.patterns).chain(&topics.patterns).cloned().collect();
    (all != lane.patterns).then_some(all)
}

enum Made {
    Yes,
    TakenOver,
}
