//! Every connection falls silent without ending: both sides have to find out by themselves. New ones work.

use async_trait::async_trait;

use super::Scenario;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct NetworkHalfOpen;

#[async_trait]
impl Scenario for NetworkHalfOpen {
    fn name(&self) -> &'static str {
        "network_half_open"
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for moment in run.moments(run.plan().times) {
            run.reach(moment).await?;
            for connection in run.network().connections() {
                connection.half_open();
            }
            run.broke_connections("network half-open");
        }
        Ok(())
    }
}
