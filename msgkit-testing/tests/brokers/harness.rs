//! Tests that may have no broker to run on.

use std::panic::{self, AssertUnwindSafe};

use libtest_mimic::{Completion, Failed, Trial};
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind};

/// A test that answers an error where its broker is missing.
pub(crate) fn test(name: &str, body: fn() -> Result<(), BrokerError>) -> Trial {
    Trial::ignorable_test(name, move || match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(error)) => {
            let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            let absent = matches!(error.kind(), BrokerErrorKind::Missing | BrokerErrorKind::NotOurs);
            if absent && !required {
                return Ok(Completion::ignored_with(format!("not run: {error}")));
            }
            Err(Failed::from(format!("{error} ({:?})", std::error::Error::source(&error))))
        }
        Err(panic) => panic::resume_unwind(panic),
    })
}
