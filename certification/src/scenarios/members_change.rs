//! Members join and leave in good order, and once all of them are away.

use async_trait::async_trait;

use super::Scenario;
use crate::{Failure, Run};

/// The most members at once.
const MOST: usize = 4;

#[derive(Debug)]
pub(super) struct MembersChange;

#[async_trait]
impl Scenario for MembersChange {
    fn name(&self) -> &'static str {
        "members_change"
    }

    async fn run(&self, run: &mut Run) -> Result<(), Failure> {
        let times = run.plan().times;
        let away = run.rng().u32(0..times.max(1));
        for (at, moment) in (0..).zip(run.moments(times)) {
            run.reach(moment).await?;
            if at == away {
                while run.members() > 0 {
                    run.leave().await?;
                }
                run.join(None).await?;
            }
            let wanted = loop {
                let wanted = run.rng().usize(1..=MOST);
                if wanted != run.members() {
                    break wanted;
                }
            };
            while run.members() < wanted {
                run.join(None).await?;
            }
            while run.members() > wanted {
                run.leave().await?;
            }
        }
        Ok(())
    }
}
