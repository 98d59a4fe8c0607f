//! Members are killed when they have handled a message and not yet acknowledged it; others at no particular moment.

use async_trait::async_trait;

use super::Scenario;
use crate::member::Death;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct MembersKilledBeforeAck;

#[async_trait]
impl Scenario for MembersKilledBeforeAck {
    fn name(&self) -> &'static str {
        "members_killed_before_ack"
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            let at = run.rng().u64(1..10);
            run.join(Some((Death::BeforeAck, at))).await?;
            run.fallen("member killed before ack").await?;
            run.kill().await?;
            run.join(None).await?;
        }
        Ok(())
    }
}
