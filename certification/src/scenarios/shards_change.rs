//! Shards are split and merged while members join and leave.

use async_trait::async_trait;

use super::{SHARDS_CHANGE, Scenario};
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct ShardsChange;

#[async_trait]
impl Scenario for ShardsChange {
    fn name(&self) -> &'static str {
        SHARDS_CHANGE
    }

    fn members(&self) -> usize {
        2
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(2 * run.plan().times) {
            run.reach(moment).await?;
            run.reshard()?;
            run.join(None).await?;
            run.reshard()?;
            run.leave().await?;
        }
        Ok(())
    }
}
