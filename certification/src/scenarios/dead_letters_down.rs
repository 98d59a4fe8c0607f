//! Where dead letters are kept is away for a while, again and again, while messages go on to be condemned.

use async_trait::async_trait;
use tokio::time::sleep;

use super::Scenario;
use crate::{Failure, Run};

#[derive(Debug)]
pub(super) struct DeadLettersDown;

#[async_trait]
impl Scenario for DeadLettersDown {
    fn name(&self) -> &'static str {
        "dead_letters_down"
    }

    fn members(&self) -> usize {
        2
    }

    fn keeps_letters_apart(&self) -> bool {
        true
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        let (times, outage) = (run.plan().times, run.plan().outage);
        for moment in run.moments(times) {
            run.reach(moment).await?;
            let network = run.letters("dead letters away")?;
            network.refuse();
            network.cut();
            sleep(outage / times.max(1)).await;
            network.heal();
            // Killed with condemned messages in hand whose copies were refused.
            run.kill().await?;
            run.join(None).await?;
        }
        Ok(())
    }
}
