//! Polling: calls AWS repeatedly until something is done.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::failure::Failure;

/// The first pause. Each of the next is half as long again.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(2);

/// How long to poll, and what to do then.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    pub patience: Duration,
    pub hint: &'static str,
}

impl Poll {
    /// Calls `attempt` until it gives a value. `overdue` begins the error when patience ends: ``table `t` is not active``.
    pub async fn until<T>(
        &self,
        overdue: &str,
        mut attempt: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let done = async {
            let mut pause = FIRST;
            loop {
                if let Some(done) = attempt().await? {
                    return Ok(done);
                }
                sleep(jittered(pause)).await;
                pause = (pause * 3 / 2).min(LONGEST);
            }
        };
        timeout(self.patience, done).await.unwrap_or_else(|_| {
            let message = format!("{overdue} after {} s", self.patience.as_secs());
            Err(Failure::new(message).hint(self.hint).into())
        })
    }
}

/// Keeps several deployers from polling at the same moments.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f32(0.75 + 0.5 * fastrand::f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Poll = Poll { patience: Duration::from_secs(2), hint: "wait" };

    #[tokio::test]
    async fn attempts_go_on_until_one_gives_a_value() {
        let mut attempts = 0;
        let done = QUICK.until("it is not done", async || {
            attempts += 1;
            Ok((attempts == 3).then_some("done"))
        });
        assert_eq!(done.await.unwrap(), "done");
        assert_eq!(attempts, 3);
    }

    #[tokio::test]
    async fn an_error_ends_the_attempts() {
        let mut attempts = 0;
        let failed: anyhow::Result<()> = QUICK
            .until("it is not done", async || {
                attempts += 1;
                anyhow::bail!("refused")
            })
            .await;
        assert_eq!(failed.unwrap_err().to_string(), "refused");
        assert_eq!(attempts, 1);
    }

    #[tokio::test]
    async fn patience_ends() {
        let overdue: anyhow::Result<()> = QUICK.until("it is not done", async || Ok(None)).await;
        let error = overdue.unwrap_err();
        assert_eq!(error.to_string(), "it is not done after 2 s");
        assert_eq!(Failure::find_in(&error).unwrap().hint.as_deref(), Some("wait"));
    }
}
