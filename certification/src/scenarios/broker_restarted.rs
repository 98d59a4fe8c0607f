//! The broker is restarted in good order, under one member.

use async_trait::async_trait;

use super::{BROKER_RESTARTED, Scenario};
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct BrokerRestarted;

#[async_trait]
impl Scenario for BrokerRestarted {
    fn name(&self) -> &'static str {
        BROKER_RESTARTED
    }

    fn members(&self) -> usize {
        1
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            run.restart_broker(false)?;
        }
        Ok(())
    }
}
