//! The network is away for a while, and at other times breaks for a moment only.

use async_trait::async_trait;
use tokio::time::sleep;

use super::Scenario;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct NetworkCut;

#[async_trait]
impl Scenario for NetworkCut {
    fn name(&self) -> &'static str {
        "network_cut"
    }

    fn members(&self) -> usize {
        1
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        for (at, moment) in run.moments(run.plan().times).into_iter().enumerate() {
            run.reach(moment).await?;
            if at == 0 {
                run.network().refuse();
                run.network().cut();
                sleep(run.plan().outage).await;
                run.network().heal();
            } else {
                run.network().reset();
            }
            run.broke_connections("network cut");
        }
        Ok(())
    }
}
