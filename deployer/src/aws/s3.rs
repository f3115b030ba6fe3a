//! The bucket that hands the function's zip to `CloudFormation`.

use aws_sdk_s3::{
    Client,
    config::{
        interceptors::InterceptorContext,
        retry::{ClassifyRetry, RetryAction},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{
        BucketLocationConstraint, CreateBucketConfiguration, Delete, ObjectIdentifier,
        PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
        ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
    },
};
use serde_json::json;

use super::{Identity, UPLOAD_TIMEOUT, explain, says};
use crate::{failure::Failure, package::artifact::Artifact};

/// How many artifacts of a stack are kept, with those that it names or named last.
const KEPT: usize = 5;

/// S3's refusal of one of two changes of a bucket at a time, which means: try again.
#[derive(Debug)]
pub struct Conflict;

impl ClassifyRetry for Conflict {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response() {
            Some(response)
                if response.status().as_u16() == 409 && says(response, "OperationAborted") =>
            {
                RetryAction::transient_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "conflict"
    }
}

/// Where the artifacts of a stack go.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// The stack's name. Several stacks share the bucket, and each has its own artifacts in it.
    stack: String,
    /// Whom it must belong to.
    owner: Identity,
    /// Whether it is this program's to make and to set up; a bucket that the user brings is not.
    ours: bool,
}

impl Bucket {
    /// The bucket that the user names, or the one of this account and region.
    pub fn new(asked: Option<&str>, owner: Identity, region: &str, stack: &str) -> Self {
        let name = asked.map_or_else(
            || format!("cbbootstrap-artifacts-{}-{region}", owner.account),
            str::to_owned,
        );
        Self { name, stack: stack.to_owned(), owner, ours: asked.is_none() }
    }

    /// Whether the bucket is there. That it belongs to somebody else, or lies elsewhere, is an error.
    pub async fn exists(&self, client: &Client, region: &str) -> anyhow::Result<bool> {
        let head = client
            .head_bucket()
            .bucket(&self.name)
            .expected_bucket_owner(&self.owner.account)
            .send()
            .await;
        let error = match head {
            Ok(output) => match output.bucket_region.as_deref() {
                Some(other) if other != region => return Err(self.elsewhere(other, region).into()),
                _ => return Ok(true),
            },
            Err(error) => error,
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let header = |name| error.raw_response().and_then(|response| response.headers().get(name));
        match (status, header("x-amz-bucket-region")) {
            (Some(404), _) if self.ours => Ok(false),
            (Some(404), _) => Err(Failure::new(format!("there is no bucket `{}`", self.name))
                .hint("create it first, or leave `--bucket` out to have one made")
                .into()),
            (Some(301 | 400), Some(other)) if other != region => {
                Err(self.elsewhere(other, region).into())
            }
            // A HEAD has no body that would say more.
            (Some(403), _) if error.code().is_none_or(|code| !code.contains("Token")) => {
                Err(self.not_yours().into())
            }
            _ => Err(explain(format!("cannot look at bucket `{}`", self.name), &error).into()),
        }
    }

    fn elsewhere(&self, other: &str, region: &str) -> Failure {
        Failure::new(format!(
            "bucket `{}` is in {other}, and a function in {region} needs one there",
            self.name
        ))
        .hint("name another with `--bucket`, or leave it out to have one made")
    }

    fn not_yours(&self) -> Failure {
        Failure::new(format!(
            "bucket `{}` belongs to another account than {}, or these credentials may not use it",
            self.name, self.owner.account
        ))
        .hint(
            "name one of your own with `--bucket`, or ask for `s3:ListBucket` on it; `cbbootstrap iam-policy` prints all \
             that a deployment needs",
        )
    }

    /// Makes the bucket, in this region.
    pub async fn create(&self, client: &Client, region: &str) -> anyhow::Result<()> {
        // The first region is the one that must not be named.
        let place = (region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        let created = client
            .create_bucket()
            .bucket(&self.name)
            .set_create_bucket_configuration(place)
            .send()
            .await;
        match created {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(aws_sdk_s3::operation::create_bucket::CreateBucketError::is_bucket_already_owned_by_you) =>
            {
                Ok(())
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(aws_sdk_s3::operation::create_bucket::CreateBucketError::is_bucket_already_exists) =>
            {
                Err(self.not_yours().into())
            }
            Err(error) => {
                Err(explain(format!("cannot create bucket `{}`", self.name), &error).into())
            }
        }
    }

    /// Sees to it that our bucket is encrypted, private, and reached by TLS alone. Each is said anew with an upload, which
    /// heals a bucket that was left half-made.
    pub async fn protect(&self, client: &Client) -> anyhow::Result<()> {
        if !self.ours {
            return Ok(());
        }
        let (bucket, owner) = (self.name.as_str(), self.owner.account.as_str());
        let aes256 = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(ServerSideEncryption::Aes256)
            .build()?;
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(aes256)
            .build();
        let encryption = ServerSideEncryptionConfiguration::builder().rules(rule).build()?;
        let private = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .block_public_policy(true)
            .ignore_public_acls(true)
            .restrict_public_buckets(true)
            .build();
        let arn = format!("arn:{}:s3:::{bucket}", self.owner.partition);
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [&arn, &format!("{arn}/*")],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }],
        });
        // One after the other: S3 refuses two changes of one bucket at a time. Another deployer's are tried again.
        let encrypted = client
            .put_bucket_encryption()
            .bucket(bucket)
            .expected_bucket_owner(owner)
            .server_side_encryption_configuration(encryption)
            .send()
            .await;
        encrypted.map_err(|error| explain(format!("cannot encrypt bucket `{bucket}`"), &error))?;
        let closed = client
            .put_public_access_block()
            .bucket(bucket)
            .expected_bucket_owner(owner)
            .public_access_block_configuration(private)
            .send()
            .await;
        closed.map_err(|error| {
            explain(format!("cannot block public access to bucket `{bucket}`"), &error)
        })?;
        let policy = client
            .put_bucket_policy()
            .bucket(bucket)
            .expected_bucket_owner(owner)
            .policy(policy.to_string())
            .send()
            .await;
        policy.map_err(|error| {
            explain(format!("cannot set the policy of bucket `{bucket}`"), &error)
        })?;
        Ok(())
    }

    fn prefix(&self) -> String {
        format!("{}/", self.stack)
    }

    /// The key of the artifact: its content, so that what is there need not be uploaded again.
    pub fn key(&self, artifact: &Artifact) -> String {
        format!("{}{}.zip", self.prefix(), artifact.sha256)
    }

    /// Whether the artifact is in the bucket.
    pub async fn holds(&self, client: &Client, artifact: &Artifact) -> anyhow::Result<bool> {
        let key = self.key(artifact);
        let head = client
            .head_object()
            .bucket(&self.name)
            .key(&key)
            .expected_bucket_owner(&self.owner.account)
            .send()
            .await;
        match head {
            Ok(object) => Ok(object.content_length == i64::try_from(artifact.zip.len()).ok()),
            // 403 is what S3 says of a missing key to someone who may not list the bucket.
            Err(SdkError::ServiceError(refused))
                if [403, 404].contains(&refused.raw().status().as_u16()) =>
            {
                Ok(false)
            }
            Err(error) => {
                Err(explain(format!("cannot look for `{key}` in bucket `{}`", self.name), &error)
                    .into())
            }
        }
    }

    /// Uploads the artifact.
    pub async fn upload(&self, client: &Client, artifact: &Artifact) -> anyhow::Result<()> {
        let key = self.key(artifact);
        let patient = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_TIMEOUT).build();
        let put = client
            .put_object()
            .bucket(&self.name)
            .key(&key)
            .expected_bucket_owner(&self.owner.account)
            .content_type("application/zip")
            .body(ByteStream::from(artifact.zip.clone()))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(patient))
            .send()
            .await;
        put.map_err(|error| {
            explain(format!("cannot upload `{key}` to bucket `{}`", self.name), &error)
        })?;
        Ok(())
    }

    /// Deletes all but the newest artifacts of the stack and those that are named, where the bucket is ours; says how many
    /// went. Age alone is no reason: a stack may go back to its last artifact after a year.
    pub async fn prune(&self, client: &Client, named: &[&str]) -> anyhow::Result<usize> {
        if !self.ours {
            return Ok(0);
        }
        let artifacts = self.artifacts(client).await?;
        let outdated = outdated(artifacts, named);
        self.delete(client, &outdated).await?;
        Ok(outdated.len())
    }

    /// Deletes all artifacts of the stack where the bucket is ours, and the bucket if nothing else is in it; says how many
    /// artifacts went, and whether the bucket did.
    pub async fn empty(&self, client: &Client) -> anyhow::Result<(usize, bool)> {
        let artifacts = self.artifacts(client).await?;
        let keys: Vec<_> = artifacts.into_iter().map(|(_, key)| key).collect();
        self.delete(client, &keys).await?;
        let deleted = client
            .delete_bucket()
            .bucket(&self.name)
            .expected_bucket_owner(&self.owner.account)
            .send()
            .await;
        match deleted {
            Ok(_) => Ok((keys.len(), true)),
            Err(error) if error.code() == Some("BucketNotEmpty") => Ok((keys.len(), false)),
            // An answer was lost, and the SDK asked again.
            Err(error) if error.code() == Some("NoSuchBucket") => Ok((keys.len(), true)),
            Err(error) => {
                Err(explain(format!("cannot delete bucket `{}`", self.name), &error).into())
            }
        }
    }

    /// The stack's artifacts, each with its date in seconds since 1970.
    async fn artifacts(&self, client: &Client) -> anyhow::Result<Vec<(i64, String)>> {
        let objects = client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(self.prefix())
            .expected_bucket_owner(&self.owner.account)
            .into_paginator()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await;
        let pages = objects
            .map_err(|error| explain(format!("cannot list bucket `{}`", self.name), &error))?;
        let objects = pages.into_iter().flat_map(|page| page.contents.unwrap_or_default());
        Ok(objects
            .filter_map(|object| {
                let date = object.last_modified.map_or(0, |date| date.secs());
                Some((date, object.key?))
            })
            .collect())
    }

    async fn delete(&self, client: &Client, keys: &[String]) -> anyhow::Result<()> {
        // As many as one call takes.
        for keys in keys.chunks(1000) {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build())
                .collect::<Result<_, _>>()?;
            let objects = Delete::builder().set_objects(Some(objects)).quiet(true).build()?;
            let deleted = client
                .delete_objects()
                .bucket(&self.name)
                .expected_bucket_owner(&self.owner.account)
                .delete(objects)
                .send()
                .await;
            let what = || format!("cannot delete artifacts in bucket `{}`", self.name);
            let deleted = deleted.map_err(|error| explain(what(), &error))?;
            if let Some(error) = deleted.errors().first() {
                let why = error.message().or(error.code()).unwrap_or("refused");
                return Err(Failure::new(format!("{}: {why}", what())).into());
            }
        }
        Ok(())
    }
}

/// The artifacts to delete: neither named nor among the newest.
fn outdated(mut artifacts: Vec<(i64, String)>, named: &[&str]) -> Vec<String> {
    artifacts.sort_by(|one, other| other.cmp(one));
    artifacts
        .into_iter()
        .skip(KEPT)
        .map(|(_, key)| key)
        .filter(|key| !named.contains(&key.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_artifacts_go_and_named_ones_stay() {
        let artifacts = |dates: &[i64]| {
            dates.iter().map(|date| (*date, format!("s/{date}.zip"))).collect::<Vec<_>>()
        };
        for (dates, named, expected) in [
            (&[1, 2, 3, 4, 5][..], &[][..], &[][..]),
            (&[7, 1, 2, 3, 4, 5, 6], &[], &["s/2.zip", "s/1.zip"]),
            (&[7, 1, 2, 3, 4, 5, 6], &["s/1.zip", "s/6.zip"], &["s/2.zip"]),
            (&[], &["s/1.zip"], &[]),
        ] {
            assert_eq!(outdated(artifacts(dates), named), expected, "{dates:?} {named:?}");
        }
    }
}
