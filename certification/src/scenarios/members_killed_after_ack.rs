//! Members are killed when they have just acknowledged a message.

use async_trait::async_trait;

use super::Scenario;
use crate::member::Death;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct MembersKilledAfterAck;

#[async_trait]
impl Scenario for MembersKilledAfterAck {
    fn name(&self) -> &'static str {
        "members_killed_after_ack"
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            let at = run.rng().u64(1..10);
            run.join(Some((Death::AfterAck, at))).await?;
            run.fallen("member killed after ack").await?;
        }
        Ok(())
    }
}
