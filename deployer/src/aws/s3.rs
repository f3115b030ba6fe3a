//! The bucket from which CloudFormation takes the function's zip, and nodes take the agent's archive.

use anyhow::Context;
use aws_sdk_s3::{
    Client,
    config::{
        interceptors::InterceptorContext,
        retry::{ClassifyRetry, RetryAction},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::{ByteStream, DateTime},
    types::{
        BucketLocationConstraint, CreateBucketConfiguration, Delete, ObjectIdentifier,
        PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
        ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
    },
};
use serde_json::{Value, json};

use super::{
    Aws, Identity, UPLOAD_TIMEOUT,
    error::{Answer, clock_offset, explain, has_code},
};
use crate::{failure::Failure, package::artifact::Artifact};

/// How many artifacts of a stack are kept besides its current and its last one.
const KEPT: usize = 5;

/// Retries what the SDK does not.
#[derive(Debug)]
pub struct Retries;

impl ClassifyRetry for Retries {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(response) = context.response() else {
            return RetryAction::NoActionIndicated;
        };
        match response.status().as_u16() {
            // S3 refuses two changes of a bucket at the same time.
            409 if has_code(response, "OperationAborted") => RetryAction::transient_error(),
            // A refusal of a HEAD request has no error code, by which the SDK would recognize that the clocks differ. The next
            // attempt is signed by S3's clock.
            403 if response.body().bytes().unwrap_or_default().is_empty()
                && clock_offset(response).is_some() =>
            {
                RetryAction::server_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "S3"
    }
}

/// A request about a bucket, which S3 refuses if someone else owns it.
macro_rules! request {
    ($bucket:ident.$operation:ident) => {
        $bucket.client.$operation().bucket(&$bucket.name).expected_bucket_owner($bucket.owner())
    };
}

/// The bucket of a stack's artifacts. Several stacks share it, each with its own prefix.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    region: String,
    pub name: String,
    /// Whether it existed when it was read.
    pub exists: bool,
    stack: String,
    /// The account that it must belong to.
    owner: Identity,
    /// Whether this program creates and configures it: the user named no other.
    ours: bool,
}

impl Bucket {
    /// The bucket that the user names, or else this program's own. A bucket of another account or region is an error.
    pub async fn find(aws: &Aws, asked: Option<&str>, stack: &str) -> anyhow::Result<Self> {
        let (owner, region) = (aws.identity().await?, aws.region.clone());
        let name = asked.map_or_else(
            || format!("cbbootstrap-artifacts-{}-{region}", owner.account),
            str::to_owned,
        );
        let (client, stack, ours) = (aws.s3.clone(), stack.to_owned(), asked.is_none());
        let mut bucket = Self { client, region, name, exists: false, stack, owner, ours };
        bucket.exists = bucket.check().await?;
        Ok(bucket)
    }

    /// Whether it exists.
    async fn check(&self) -> anyhow::Result<bool> {
        let error = match request!(self.head_bucket).send().await {
            Ok(output) => match output.bucket_region.as_deref() {
                Some(other) if other != self.region => return Err(self.elsewhere(other).into()),
                _ => return Ok(true),
            },
            Err(error) => error,
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let region =
            error.raw_response().and_then(|answer| answer.headers().get("x-amz-bucket-region"));
        match (status, region) {
            (Some(404), _) if self.ours => Ok(false),
            (Some(404), _) => Err(Failure::new(format!("there is no bucket `{}`", self.name))
                .hint("create it first, or omit `--bucket` to have one created")
                .into()),
            (Some(301 | 400), Some(other)) if other != self.region => {
                Err(self.elsewhere(other).into())
            }
            // The answer to a HEAD request has no body with a reason.
            (Some(403), _)
                if error.raw_response().and_then(clock_offset).is_none()
                    && error.code().is_none_or(|code| !code.contains("Token")) =>
            {
                Err(self.not_yours().into())
            }
            _ => Err(explain(format!("cannot read bucket `{}`", self.name), &error).into()),
        }
    }

    fn owner(&self) -> &str {
        &self.owner.account
    }

    fn elsewhere(&self, other: &str) -> Failure {
        let Self { name, region, .. } = self;
        Failure::new(format!("bucket `{name}` is in {other}, but the stack is in {region}"))
            .hint("choose another bucket, or omit `--bucket` to have one created")
    }

    fn not_yours(&self) -> Failure {
        Failure::new(format!(
            "bucket `{}` does not belong to account {}, or these credentials are not allowed to use it",
            self.name,
            self.owner()
        ))
        .hint(
            "pass your own bucket with `--bucket`, or ask for `s3:ListBucket` on it; `cbbootstrap iam-policy` prints the permissions that a deployment needs",
        )
    }

    pub async fn create(&self) -> anyhow::Result<()> {
        // S3 does not accept `us-east-1` as a location.
        let location = (self.region != "us-east-1").then(|| {
            let location = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(location).build()
        });
        let create = self.client.create_bucket().bucket(&self.name);
        match create.set_create_bucket_configuration(location).send().await {
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) if error.code() == Some("BucketAlreadyExists") => {
                Err(self.not_yours().into())
            }
            created => {
                created.explain(format!("cannot create bucket `{}`", self.name))?;
                Ok(())
            }
        }
    }

    /// Makes sure that a bucket of ours is encrypted, with this key or one of AWS, private, and accessible by TLS only. Repeated with each upload, it completes
    /// a bucket whose creation was interrupted.
    pub async fn protect(&self, kms_key: Option<&str>) -> anyhow::Result<()> {
        if !self.ours {
            return Ok(());
        }
        let bucket = &self.name;
        let algorithm = match kms_key {
            Some(_) => ServerSideEncryption::AwsKms,
            None => ServerSideEncryption::Aes256,
        };
        let default = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(algorithm)
            .set_kms_master_key_id(kms_key.map(str::to_owned))
            .build()?;
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(default)
            .bucket_key_enabled(kms_key.is_some())
            .build();
        let encryption = ServerSideEncryptionConfiguration::builder().rules(rule).build()?;
        let private = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .block_public_policy(true)
            .ignore_public_acls(true)
            .restrict_public_buckets(true)
            .build();
        // In sequence: S3 refuses two changes of a bucket at the same time, and `Retries` is for another deployer's.
        let encrypt =
            request!(self.put_bucket_encryption).server_side_encryption_configuration(encryption);
        encrypt.send().await.explain(format!("cannot encrypt bucket `{bucket}`"))?;
        let close =
            request!(self.put_public_access_block).public_access_block_configuration(private);
        let (closed, policy) = tokio::join!(close.send(), request!(self.get_bucket_policy).send());
        closed.explain(format!("cannot block public access to bucket `{bucket}`"))?;
        let what = format!("cannot read the policy of bucket `{bucket}`");
        let policy = policy.absent_on("NoSuchBucketPolicy").explain(&what)?;
        let policy = policy.and_then(|it| it.policy);
        let arn = format!("arn:{}:s3:::{bucket}", self.owner.partition);
        if let Some(policy) = tls_only(policy.as_deref(), &arn).context(what)? {
            let set_policy = request!(self.put_bucket_policy).policy(policy.to_string());
            let what = format!("cannot set the policy of bucket `{bucket}`");
            set_policy.send().await.explain(what)?;
        }
        Ok(())
    }

    pub fn prefix(&self) -> String {
        format!("{}/", self.stack)
    }

    /// The artifact's key, made of its content, so that it is uploaded only once.
    pub fn key(&self, artifact: &Artifact) -> String {
        format!("{}{}.{}", self.prefix(), artifact.sha256, artifact.program.extension)
    }

    /// Whether it has the artifact, and those who may use only this KMS key can read it. A bucket that is not ours has its own keys.
    pub async fn holds(&self, artifact: &Artifact, kms_key: Option<&str>) -> anyhow::Result<bool> {
        let key = self.key(artifact);
        match request!(self.head_object).key(&key).send().await {
            Ok(object) => {
                let is_whole = object.content_length == i64::try_from(artifact.bytes.len()).ok();
                let object_key = object.ssekms_key_id.as_deref();
                Ok(is_whole && (!self.ours || is_readable(object_key, kms_key)))
            }
            // Without the permission to list the bucket, a missing key is a 403.
            Err(SdkError::ServiceError(refused))
                if [403, 404].contains(&refused.raw().status().as_u16()) =>
            {
                Ok(false)
            }
            Err(error) => {
                let what = format!("cannot read `{key}` in bucket `{}`", self.name);
                Err(explain(what, &error).into())
            }
        }
    }

    pub async fn upload(&self, artifact: &Artifact) -> anyhow::Result<()> {
        let key = self.key(artifact);
        let patient = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_TIMEOUT).build();
        let put = request!(self.put_object)
            .key(&key)
            .content_type(artifact.program.content_type)
            .body(ByteStream::from(artifact.bytes.clone()))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(patient));
        let what = format!("cannot upload `{key}` to bucket `{}`", self.name);
        put.send().await.explain(what)?;
        Ok(())
    }

    /// Deletes all but the newest artifacts of the stack and those that are named, if the bucket is ours. Age alone does not
    /// matter: a stack may return to its last artifact after a year.
    pub async fn prune(&self, named: &[&str]) -> anyhow::Result<()> {
        if !self.ours {
            return Ok(());
        }
        let artifacts = self.artifacts().await?;
        self.delete(&outdated(artifacts, named)).await
    }

    /// Deletes all artifacts of the stack, and the bucket if it is empty then, unless `keep` is set. Returns the number of
    /// deleted artifacts, and whether the bucket is deleted.
    pub async fn empty(&self, keep: bool) -> anyhow::Result<(usize, bool)> {
        let artifacts = self.artifacts().await?;
        let keys: Vec<_> = artifacts.into_iter().map(|(_, key)| key).collect();
        self.delete(&keys).await?;
        if keep {
            return Ok((keys.len(), false));
        }
        // There is no bucket if the SDK repeated a request whose answer was lost.
        let deleted = request!(self.delete_bucket).send().await.absent_on("NoSuchBucket");
        let deleted = deleted.absent_on("BucketNotEmpty");
        let deleted = deleted.explain(format!("cannot delete bucket `{}`", self.name))?;
        Ok((keys.len(), deleted.is_some()))
    }

    /// The stack's artifacts, each with the time of its upload.
    async fn artifacts(&self) -> anyhow::Result<Vec<(Option<DateTime>, String)>> {
        let pages = request!(self.list_objects_v2).prefix(self.prefix()).into_paginator().send();
        let pages = pages.collect::<Result<Vec<_>, _>>().await;
        let pages = pages.explain(format!("cannot list bucket `{}`", self.name))?;
        let objects = pages.into_iter().flat_map(|page| page.contents.unwrap_or_default());
        Ok(objects.filter_map(|object| Some((object.last_modified, object.key?))).collect())
    }

    async fn delete(&self, keys: &[String]) -> anyhow::Result<()> {
        // The limit of one call.
        for keys in keys.chunks(1000) {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build())
                .collect::<Result<_, _>>()?;
            let objects = Delete::builder().set_objects(Some(objects)).quiet(true).build()?;
            let deleted = request!(self.delete_objects).delete(objects).send().await;
            let what = format!("cannot delete artifacts in bucket `{}`", self.name);
            if let Some(error) = deleted.explain(&what)?.errors().first() {
                let reason = error.message().or(error.code()).unwrap_or("refused");
                return Err(Failure::new(format!("{what}: {reason}")).into());
            }
        }
        Ok(())
    }
}

/// The bucket's policy with the statement that requires TLS; `None` if it has it. Others may have added theirs, such as the permission of
/// a cluster's nodes to read Couchbase's package.
fn tls_only(policy: Option<&str>, arn: &str) -> serde_json::Result<Option<Value>> {
    let mut policy: Value = serde_json::from_str(policy.unwrap_or(r#"{"Version": "2012-10-17"}"#))?;
    let mut statements = match policy["Statement"].take() {
        Value::Null => Vec::new(),
        Value::Array(statements) => statements,
        statement => vec![statement],
    };
    let ours = json!({
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, format!("{arn}/*")],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    });
    if statements.contains(&ours) {
        return Ok(None);
    }
    statements.retain(|statement| statement["Sid"] != ours["Sid"]);
    statements.push(ours);
    policy["Statement"] = statements.into();
    Ok(Some(policy))
}

/// Whether those who may use only `kms_key` can read an object that `object_key` encrypts. Without a customer's key, everybody who may
/// read the bucket can.
fn is_readable(object_key: Option<&str>, kms_key: Option<&str>) -> bool {
    object_key.is_none() || object_key == kms_key
}

/// The artifacts that are neither named nor among the newest. S3 may round times to seconds, so those of the same time as the
/// oldest one to keep are kept, too: their keys are hashes, which have no order.
fn outdated<T: Ord>(mut artifacts: Vec<(T, String)>, named: &[&str]) -> Vec<String> {
    artifacts.sort_by(|(one, _), (other, _)| other.cmp(one));
    let Some((oldest_kept, _)) = artifacts.get(KEPT - 1) else {
        return Vec::new();
    };
    let is_outdated =
        |(time, key): &&(T, String)| time < oldest_kept && !named.contains(&key.as_str());
    artifacts.iter().filter(is_outdated).map(|(_, key)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_readable_without_a_key_or_with_the_wanted_one() {
        for (object_key, kms_key, expected) in [
            (None, None, true),
            (None, Some("k"), true),
            (Some("k"), Some("k"), true),
            (Some("other"), Some("k"), false),
            (Some("k"), None, false),
        ] {
            assert_eq!(is_readable(object_key, kms_key), expected, "{object_key:?} {kms_key:?}");
        }
    }

    #[test]
    fn a_policy_keeps_the_statements_of_others() {
        let theirs = json!({"Sid": "Nodes", "Effect": "Allow"});
        for (statements, kept) in [
            (None, vec![]),
            (Some(json!([theirs])), vec![&theirs]),
            (Some(theirs.clone()), vec![&theirs]),
        ] {
            let policy =
                statements.map(|it| json!({"Version": "2008-10-17", "Statement": it}).to_string());
            let policy = tls_only(policy.as_deref(), "arn:aws:s3:::b").unwrap().unwrap();
            let statements = policy["Statement"].as_array().unwrap();
            let (ours, others) = statements.split_last().unwrap();
            assert_eq!(ours["Resource"], json!(["arn:aws:s3:::b", "arn:aws:s3:::b/*"]));
            assert!(others.iter().eq(kept), "{policy}");
            assert_eq!(tls_only(Some(&policy.to_string()), "arn:aws:s3:::b").unwrap(), None);
        }
    }

    #[test]
    fn old_artifacts_are_outdated_unless_named() {
        let artifacts = |dates: &[i64]| {
            dates.iter().map(|date| (*date, format!("s/{date}.zip"))).collect::<Vec<_>>()
        };
        for (dates, named, expected) in [
            (&[1, 2, 3, 4, 5][..], &[][..], &[][..]),
            (&[7, 1, 2, 3, 4, 5, 6], &[], &["s/2.zip", "s/1.zip"]),
            (&[7, 1, 2, 3, 4, 5, 6], &["s/1.zip", "s/6.zip"], &["s/2.zip"]),
            (&[], &["s/1.zip"], &[]),
            // Four of the same second, of which two would be left.
            (&[9, 8, 7, 6, 6, 6, 6, 5], &[], &["s/5.zip"]),
            (&[6, 6, 6, 6, 6, 6, 6], &[], &[]),
        ] {
            assert_eq!(outdated(artifacts(dates), named), expected, "{dates:?} {named:?}");
        }
    }
}
