//! The broker is killed (SIGKILL) and started again on the same data, under three members.

use async_trait::async_trait;

use super::{BROKER_KILLED, Scenario};
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct BrokerKilled;

#[async_trait]
impl Scenario for BrokerKilled {
    fn name(&self) -> &'static str {
        BROKER_KILLED
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        run.settle_broker()?;
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            run.restart_broker(true)?;
        }
        Ok(())
    }
}
