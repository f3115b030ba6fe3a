//! The caller's credentials.

use jiff::Timestamp;

use super::Aws;

impl Aws {
    pub async fn credentials_expiry(&self) -> anyhow::Result<Option<Timestamp>> {
        let expiry = self.credentials.current().await?.expiry();
        Ok(expiry.and_then(|time| Timestamp::try_from(time).ok()))
    }
}
