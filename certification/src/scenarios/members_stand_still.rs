//! A member stands still, alive and connected, for longer than the broker waits for one; then it goes on where it was.

use std::time::Duration;

use async_trait::async_trait;

use super::Scenario;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct MembersStandStill;

/// Longer than any broker here is told to wait for a member, and than the client of any waits for an answer to a sign of life.
const AT_LEAST: Duration = Duration::from_secs(20);

#[async_trait]
impl Scenario for MembersStandStill {
    fn name(&self) -> &'static str {
        "members_stand_still"
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            run.stand_still(run.plan().outage.max(AT_LEAST)).await?;
        }
        Ok(())
    }
}
