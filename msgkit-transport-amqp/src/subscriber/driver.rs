//! The task of one subscription: owns the channel, repairs it, hands over what comes, tells the broker what was settled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use msgkit::transport::{Subscription, TransportError, TransportErrorKind};
use tokio::time::Instant;

use super::lost_settlements;
use super::member::{Fetched, Member, Work};
use super::session::{Session, taken};
use crate::broker::Broker;
use crate::error;
use crate::wire::{self, Topics};

/// The shortest and the longest pause between two tries to get a channel.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long messages that came again wait for the registry before they are handed over.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look for suspects that others have put aside, and whether the queue still knows its consumer.
const LOOK: Duration = Duration::from_secs(10);

/// The task of one subscription.
pub(super) struct Driver {
    broker: Arc<Broker>,
    member: Arc<Member>,
    subscription: Subscription,
    session: Session,
    topics: Topics,
    /// This channel was told settlements since the broker's last word.
    unanswered: bool,
    /// The last look found that the queue knows no consumer.
    doubtful: bool,
}

/// Why a session ended.
enum Ended {
    /// The channel is gone.
    Lost(TransportError),
    /// The broker has ended the consumer, or forgotten it: its queue was deleted or moved.
    Cancelled,
    /// The receiver has left, or the transport is closed.
    Over,
}

impl Driver {
    /// Begins to consume.
    pub(super) async fn begin(
        broker: Arc<Broker>,
        member: Arc<Member>,
        subscription: Subscription,
    ) -> Result<Self, TransportError> {
        let queues = Session::declare(&broker, &subscription).await?;
        if subscription.group.is_some() {
            broker.register().await?;
        }
        let session = Session::open(&broker, &subscription, queues).await?;
        member.new_epoch(false);
        let topics = Topics::default();
        Ok(Self { broker, member, subscription, session, topics, unanswered: false, doubtful: false })
    }

    /// Until the receiver leaves, the transport closes, or the broker refuses for good.
    pub(super) async fn run(mut self) {
        let failure = loop {
            match self.consume().await {
                Ended::Over => break None,
                Ended::Lost(error) => {
                    let queue = &self.session.queue;
                    let why = msgkit::Chain(&error);
                    tracing::warn!(%queue, error = %why, "a channel was lost; it is opened again");
                }
                Ended::Cancelled => self.cancelled(),
            }
            self.member.new_epoch(std::mem::take(&mut self.unanswered));
            // A channel that is there still has messages in hand: they go back before the next one fetches what lies behind them.
            self.session.leave().await;
            match self.open_again().await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        self.session.leave().await;
        self.member.end(failure);
    }

    /// Says and counts that the broker has ended the consumer. Exchanges and queues are declared anew with the next session.
    fn cancelled(&self) {
        let queue = &self.session.queue;
        tracing::warn!(
            %queue,
            "the broker has ended the consumer: somebody has deleted or moved the queue. What a deleted queue held is gone, and \
             so is what was published before it is there again; it is declared and consumed again now"
        );
        self.broker.consumer_cancelled(self.subscription.group.as_ref());
    }

    /// Hands over and settles until the channel is gone or nobody is there any more.
    async fn consume(&mut self) -> Ended {
        let mut closing = self.broker.closing();
        let mut put_aside = self.broker.suspects();
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if !self.session.is_fetching() {
                let fetching = self.session.fetch(&self.member);
                match self.broker.answer(fetching, "consuming").await {
                    Ok(None) => {}
                    Ok(Some(suspect)) => {
                        let (given, _) = self.read(vec![suspect]);
                        self.member.give(given);
                    }
                    Err(error) => return Ended::Lost(error),
                }
            }
            let came = async {
                match &mut self.session.consumer {
                    Some(consumer) => consumer.next().await,
                    None => std::future::pending().await,
                }
            };
            let (work, over) = tokio::select! {
                biased;
                () = closing.begun() => (self.member.work(), true),
                () = self.member.wake.notified() => (self.member.work(), false),
                () = put_aside.changed() => {
                    self.look_for_suspects().await;
                    continue;
                }
                _ = look.tick() => {
                    if self.is_forgotten().await {
                        return Ended::Cancelled;
                    }
                    self.look_for_suspects().await;
                    self.write_down();
                    continue;
                }
                came = came => match self.hand_over(came).await {
                    Some(ended) => return ended,
                    None => continue,
                },
            };
            let over = over || work.left;
            match self.settle(work, over).await {
                Ok(()) if over => return Ended::Over,
                Ok(()) => {}
                Err(error) => return Ended::Lost(error),
            }
        }
    }

    /// Whether the queue knows no consumer although this is one. The broker's word that it has ended one can go missing, as
    /// when the queue was deleted just before consuming it began. A queue that has no leader at the moment says so too, but
    /// not twice.
    async fn is_forgotten(&mut self) -> bool {
        if self.session.consumer.is_none() || self.session.cancelling {
            return false;
        }
        match self.broker.state_of(&self.session.queue).await {
            Ok(None) => true,
            Ok(Some((_, 0))) => std::mem::replace(&mut self.doubtful, true),
            _ => {
                self.doubtful = false;
                false
            }
        }
    }

    /// Notices whether suspects wait. Where the broker does not answer, the next look does.
    async fn look_for_suspects(&mut self) {
        if let Some(queue) = &self.session.suspects
            && let Ok(Some(depth)) = self.broker.depth_of(queue).await
        {
            self.session.turn |= depth > 0;
        }
    }

    /// Gives what came, and all that came with it, to the receiver; the end where that came.
    async fn hand_over(&mut self, first: Option<lapin::Result<Delivery>>) -> Option<Ended> {
        let mut came = Vec::new();
        let mut next = Some(first);
        let ended = loop {
            match next {
                Some(Some(Ok(delivery))) => came.push(delivery),
                Some(Some(Err(error))) => break Some(Ended::Lost(error::of(error, "consuming"))),
                // Cancelled: by this side, or by the broker whose queue is gone.
                Some(None) if self.session.cancelling => {
                    self.session.consumer = None;
                    break None;
                }
                Some(None) => break Some(Ended::Cancelled),
                None => break None,
            }
            next = self.session.consumer.as_mut().and_then(|consumer| consumer.next().now_or_never());
        };
        let (mut given, restarted) = self.read(came);
        if !restarted.is_empty() {
            self.discount_looks(&mut given, restarted).await;
        }
        self.member.give(given);
        ended
    }

    /// What came, read; and which of it was started before, as what it is known by.
    fn read(&mut self, came: Vec<Delivery>) -> (Vec<Fetched>, Vec<(usize, String)>) {
        let now = self.broker.clock.now();
        let (mut given, mut restarted) = (Vec::with_capacity(came.len()), Vec::new());
        for delivery in came {
            let Some((tag, raw)) = taken(&mut self.session.watermark, delivery) else { continue };
            let count = raw.count();
            if count > 1 {
                restarted.push((given.len(), raw.print()));
            }
            let message = wire::read(raw, &mut self.topics, &self.subscription.ingest, now);
            given.push(Fetched { tag, count, message });
        }
        (given, restarted)
    }

    /// Looking is no start, though the queue counts it as one. Where nobody can say who looked, the count stays: it only
    /// makes a message a suspect.
    async fn discount_looks(&self, given: &mut [Fetched], restarted: Vec<(usize, String)>) {
        let Some(group) = &self.subscription.group else { return };
        let Ok(Ok(looks)) = tokio::time::timeout(PATIENCE, self.broker.looks(group)).await else { return };
        for (at, print) in restarted {
            let one = given.get_mut(at);
            if let (Some(one), Some((_, times))) =
                (one, looks.iter().find(|(looked_at, _)| *looked_at == print))
            {
                one.count = one.count.saturating_sub(*times).max(1);
            }
        }
    }

    /// Does what the receiver asks for: first no more is fetched, then what was settled is told.
    async fn settle(&mut self, work: Work, over: bool) -> Result<(), TransportError> {
        self.unanswered |= !work.settled.is_empty();
        let asked = !work.flushes.is_empty() || (over && self.unanswered);
        let told = async {
            if work.stopped || over {
                self.session.stop().await?;
            }
            self.session.acknowledge(&work.settled).await?;
            if asked { self.session.barrier().await } else { Ok(()) }
        };
        let config = &self.broker.config;
        // Who wants a short word on what is published does not want the session to end with the first slow answer.
        let patience = config.confirm_timeout.max(config.connect_timeout);
        let told = match tokio::time::timeout(patience, told).await {
            Ok(told) => told.map_err(|error| error::of(error, "settling")),
            Err(_) => Err(TransportError::new(
                TransportErrorKind::Timeout,
                format!(
                    "settling took longer than {patience:?}, the longer of `confirm_timeout` and `connect_timeout`"
                ),
            )),
        };
        if asked && (told.is_ok() || !work.flushes.is_empty()) {
            // The broker has all of it, or those who asked are told now that it has not.
            self.unanswered = false;
        }
        for flush in work.flushes {
            let _ = flush.send(if told.is_ok() { Ok(()) } else { Err(lost_settlements()) });
        }
        told
    }

    async fn open(&self) -> Result<Session, TransportError> {
        if let Some(group) = &self.subscription.group
            && self.broker.depth_of(&self.broker.names.group(group.as_str())).await?.is_none()
        {
            self.broker.unregister();
        }
        let queues = Session::declare(&self.broker, &self.subscription).await?;
        self.write_down();
        Session::open(&self.broker, &self.subscription, queues).await
    }

    /// Writes its group down again where the broker has lost the list. Where that cannot be now, the next look does it.
    fn write_down(&self) {
        if self.subscription.group.is_some() {
            self.broker.write_down_aside();
        }
    }

    /// A new session; false where nobody wants one any more.
    async fn open_again(&mut self) -> Result<bool, TransportError> {
        let mut closing = self.broker.closing();
        let mut pause = PAUSE.0;
        // The broker may have lost anything meanwhile, exchanges too: a service that publishes nothing finds out only here. Not at
        // every try, for what others have made since is there.
        self.broker.forget();
        loop {
            for flush in self.member.work().flushes {
                // The next channel has handed out nothing yet. What the one before has lost, the member tells.
                let _ = flush.send(Ok(()));
            }
            let opened = tokio::select! {
                biased;
                () = closing.begun() => return Ok(false),
                () = self.member.left() => return Ok(false),
                opened = self.open() => opened,
            };
            match opened {
                Ok(session) => {
                    self.session = session;
                    self.doubtful = false;
                    self.member.has_trouble(None);
                    // What was asked of the lost one is asked of this one.
                    self.member.wake.notify_one();
                    return Ok(true);
                }
                Err(error) if error.kind() == TransportErrorKind::Closed => return Ok(false),
                Err(error) if !error.is_temporary() => return Err(error),
                Err(error) => {
                    if error::says_missing(&error) {
                        self.broker.forget();
                    }
                    let why = msgkit::Chain(&error);
                    tracing::warn!(error = %why, "no channel yet; trying again in {pause:?}");
                    let queue = &self.session.queue;
                    self.member.has_trouble(Some(format!("queue `{queue}` is not consumed: {why}")));
                }
            }
            tokio::select! {
                biased;
                () = closing.begun() => return Ok(false),
                () = self.member.wake.notified() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }
}
