//! Calls to AWS, and their names.

use std::{fmt::Display, time::Instant};

use hyper::{HeaderMap, Method, http::request::Parts};
use serde_json::{Map, Value, json};

use super::Fault;
use crate::pattern::pattern;

/// The protocols of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A form with an `Action`, answered in XML: CloudFormation, STS.
    Query,
    /// `X-Amz-Target` and JSON: DynamoDB, CloudWatch Logs.
    Json,
    /// Method and path, and JSON: Lambda.
    Rest,
    /// Method, path and query, and XML.
    S3,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// Counted from 1, in order of arrival.
    pub number: usize,
    /// Such as `cloudformation:DescribeStacks` or `s3:PutObject`: the API's operation, which for S3 is not always the
    /// IAM action. A name with a blank in it is a call that has none here.
    pub name: String,
    /// What was asked: of the query protocol the form's fields, of JSON the body, and of Lambda and S3 the query's fields
    /// and `FunctionName`, `Bucket` and `Key`, too. A function's zip is left out.
    pub parameters: Value,
    /// The access key that signed it; empty if none did.
    pub access_key: String,
    /// When it arrived.
    pub asked: Instant,
    /// The status of the response; `None` before it, or if the connection was closed.
    pub status: Option<u16>,
    /// When it was answered; `None` in the same cases.
    pub answered: Option<Instant>,
    pub fault: Option<Fault>,
    pub(super) protocol: Protocol,
    /// A HEAD has no body that would say more.
    pub(super) is_head: bool,
}

impl Call {
    /// The call that a request makes.
    pub(super) fn of(head: &Parts, body: &[u8]) -> Self {
        let scope = scope(&head.headers);
        let query = form(head.uri.query().unwrap_or_default().as_bytes());
        let path = head.uri.path();
        let target = header(&head.headers, "x-amz-target").rsplit_once('.');
        let (protocol, operation, parameters) = if let Some((_, operation)) = target {
            (Protocol::Json, Some(operation.to_owned()), document(body))
        } else if scope.service == "s3" {
            let (bucket, key) = bucket_and_key(path);
            let operation = s3_operation(&head.method, bucket, key, &query, &head.headers);
            let mut parameters = query;
            for (name, part) in [("Bucket", bucket), ("Key", key)] {
                if !part.is_empty() {
                    parameters.insert(name.to_owned(), json!(part));
                }
            }
            (Protocol::S3, operation, parameters)
        } else if let Some(Value::String(action)) = form(body).get("Action") {
            (Protocol::Query, Some(action.clone()), form(body))
        } else {
            let (operation, function) = lambda_operation(&head.method, path);
            let mut parameters = query;
            parameters.extend(document(body));
            parameters.extend(function.map(|name| ("FunctionName".to_owned(), json!(name))));
            (Protocol::Rest, operation, parameters)
        };
        let operation = operation.unwrap_or_else(|| format!("{} {}", head.method, head.uri));
        Self {
            number: 0,
            name: format!("{}:{operation}", scope.service),
            parameters: Value::Object(parameters),
            access_key: scope.access_key.to_owned(),
            asked: Instant::now(),
            status: None,
            answered: None,
            fault: None,
            protocol,
            is_head: head.method == Method::HEAD,
        }
    }

    /// The service, as signatures name it.
    pub fn service(&self) -> &str {
        self.name.split_once(':').map_or("", |(service, _)| service)
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        let reads = ["Describe", "Get", "Head", "List", "Simulate", "Validate"];
        reads.iter().any(|read| self.operation().starts_with(read))
    }

    pub fn operation(&self) -> &str {
        self.name.split_once(':').map_or("", |(_, operation)| operation)
    }

    /// A parameter's value; empty if it is missing or not a string.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }
}

/// One line, for the message of a failed assertion.
impl Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:3} {}", self.number, self.name)?;
        match self.status {
            Some(status) => write!(f, " {status}")?,
            None => write!(f, " unanswered")?,
        }
        match &self.fault {
            Some(fault) => write!(f, " {fault:?}"),
            None => Ok(()),
        }
    }
}

/// The scope of a signature.
struct Scope<'a> {
    access_key: &'a str,
    service: &'a str,
}

/// `AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, ...`
fn scope(headers: &HeaderMap) -> Scope<'_> {
    let credential = pattern("Credential=([^/,]+)/[^/,]+/[^/,]+/([^/,]+)/");
    let found = credential.captures(header(headers, "authorization"));
    let part = |part| {
        let found = found.as_ref().and_then(|found| found.get(part));
        found.map_or("", |found| found.as_str())
    };
    Scope { access_key: part(1), service: part(2) }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn form(text: &[u8]) -> Map<String, Value> {
    form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), json!(value))).collect()
}

fn document(body: &[u8]) -> Map<String, Value> {
    let mut document: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    document.remove("ZipFile");
    document
}

/// The bucket and key of a path. A custom endpoint has no host name for each bucket.
fn bucket_and_key(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// The operation of S3; `None` if the table does not have it.
fn s3_operation(
    method: &Method,
    bucket: &str,
    key: &str,
    query: &Map<String, Value>,
    headers: &HeaderMap,
) -> Option<String> {
    /// What of a bucket or an object is set, read or removed by a field of the query.
    const PARTS: [(&str, &str); 14] = [
        ("acl", "BucketAcl"),
        ("cors", "BucketCors"),
        ("encryption", "BucketEncryption"),
        ("lifecycle", "BucketLifecycleConfiguration"),
        ("location", "BucketLocation"),
        ("logging", "BucketLogging"),
        ("notification", "BucketNotificationConfiguration"),
        ("object-lock", "ObjectLockConfiguration"),
        ("ownershipControls", "BucketOwnershipControls"),
        ("policy", "BucketPolicy"),
        ("policyStatus", "BucketPolicyStatus"),
        ("publicAccessBlock", "PublicAccessBlock"),
        ("tagging", "BucketTagging"),
        ("versioning", "BucketVersioning"),
    ];
    let has = |field: &str| query.contains_key(field);
    let part = PARTS.iter().find(|(field, _)| has(field));
    let place = match (bucket, key) {
        ("", _) => "all",
        (_, "") => "bucket",
        _ => "object",
    };
    if let Some((_, part)) = part {
        let verb = match method.as_str() {
            "GET" => "Get",
            "PUT" => "Put",
            "DELETE" => "Delete",
            _ => return None,
        };
        let part = match (verb, *part, place) {
            ("Delete", "BucketLifecycleConfiguration", _) => "BucketLifecycle",
            (_, part, "bucket") => part,
            (_, "BucketTagging", _) => "ObjectTagging",
            (_, "BucketAcl", _) => "ObjectAcl",
            _ => return None,
        };
        return Some(format!("{verb}{part}"));
    }
    let operation = match (method.as_str(), place) {
        ("GET", "all") => "ListBuckets",
        ("GET", "bucket") if has("list-type") => "ListObjectsV2",
        ("GET", "bucket") if has("versions") => "ListObjectVersions",
        ("GET", "bucket") if has("uploads") => "ListMultipartUploads",
        ("GET", "bucket") => "ListObjects",
        ("HEAD", "bucket") => "HeadBucket",
        ("PUT", "bucket") => "CreateBucket",
        ("DELETE", "bucket") => "DeleteBucket",
        ("POST", "bucket") if has("delete") => "DeleteObjects",
        ("GET", "object") if has("uploadId") => "ListParts",
        ("GET", "object") => "GetObject",
        ("HEAD", "object") => "HeadObject",
        ("PUT", "object") if has("partNumber") => "UploadPart",
        ("PUT", "object") if headers.contains_key("x-amz-copy-source") => "CopyObject",
        ("PUT", "object") => "PutObject",
        ("POST", "object") if has("uploads") => "CreateMultipartUpload",
        ("POST", "object") if has("uploadId") => "CompleteMultipartUpload",
        ("DELETE", "object") if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", "object") => "DeleteObject",
        _ => return None,
    };
    Some(operation.to_owned())
}

/// The operation of Lambda, and its function; `None` if the table does not have it.
fn lambda_operation<'a>(method: &Method, path: &'a str) -> (Option<String>, Option<&'a str>) {
    // The first segment is the API's date.
    let segments: Vec<_> = path.trim_matches('/').split('/').skip(1).collect();
    let operation = match (method.as_str(), segments.as_slice()) {
        ("GET", ["functions"]) => "ListFunctions",
        ("POST", ["functions"]) => "CreateFunction",
        ("GET", ["functions", _]) => "GetFunction",
        ("DELETE", ["functions", _]) => "DeleteFunction",
        ("GET", ["functions", _, "configuration"]) => "GetFunctionConfiguration",
        ("PUT", ["functions", _, "configuration"]) => "UpdateFunctionConfiguration",
        ("PUT", ["functions", _, "code"]) => "UpdateFunctionCode",
        ("POST", ["functions", _, "invocations"]) => "Invoke",
        ("GET", ["functions", _, "versions"]) => "ListVersionsByFunction",
        ("POST", ["functions", _, "versions"]) => "PublishVersion",
        ("GET", ["functions", _, "aliases"]) => "ListAliases",
        ("POST", ["functions", _, "aliases"]) => "CreateAlias",
        ("GET", ["functions", _, "aliases", _]) => "GetAlias",
        ("PUT", ["functions", _, "aliases", _]) => "UpdateAlias",
        ("DELETE", ["functions", _, "aliases", _]) => "DeleteAlias",
        ("GET", ["functions", _, "concurrency"]) => "GetFunctionConcurrency",
        ("PUT", ["functions", _, "concurrency"]) => "PutFunctionConcurrency",
        ("DELETE", ["functions", _, "concurrency"]) => "DeleteFunctionConcurrency",
        ("GET", ["functions", _, "policy"]) => "GetPolicy",
        ("POST", ["functions", _, "policy"]) => "AddPermission",
        ("DELETE", ["functions", _, "policy", _]) => "RemovePermission",
        ("GET", ["tags", _]) => "ListTags",
        ("POST", ["tags", _]) => "TagResource",
        ("DELETE", ["tags", _]) => "UntagResource",
        _ => return (None, None),
    };
    let function = segments.get(1).filter(|_| segments[0] == "functions");
    (Some(operation.to_owned()), function.copied())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn every_call_has_a_name() {
        let call = |service: &str, method: &str, uri: &str, target: &str, body: &str| {
            let credential = format!(
                "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/{service}/aws4_request, ..."
            );
            let request =
                Request::builder().method(method).uri(uri).header("authorization", credential);
            let request = match target {
                "" => request,
                target => request.header("x-amz-target", target),
            };
            let (head, ()) = request.body(()).unwrap().into_parts();
            Call::of(&head, body.as_bytes())
        };
        let s3 = |method, uri| call("s3", method, uri, "", "");
        let lambda = |method, uri| call("lambda", method, uri, "", "");
        let function = "/2015-03-31/functions/f";
        for (call, name) in [
            (
                call("sts", "POST", "/", "", "Action=GetCallerIdentity&Version=2011-06-15"),
                "sts:GetCallerIdentity",
            ),
            (
                call("dynamodb", "POST", "/", "DynamoDB_20120810.DescribeTable", "{}"),
                "dynamodb:DescribeTable",
            ),
            (
                call("logs", "POST", "/", "Logs_20140328.FilterLogEvents", "{}"),
                "logs:FilterLogEvents",
            ),
            (s3("GET", "/?x-id=ListBuckets"), "s3:ListBuckets"),
            (s3("HEAD", "/b"), "s3:HeadBucket"),
            (s3("PUT", "/b/"), "s3:CreateBucket"),
            (s3("PUT", "/b?encryption"), "s3:PutBucketEncryption"),
            (s3("PUT", "/b?publicAccessBlock"), "s3:PutPublicAccessBlock"),
            (s3("DELETE", "/b?lifecycle"), "s3:DeleteBucketLifecycle"),
            (s3("GET", "/b?list-type=2&prefix=p"), "s3:ListObjectsV2"),
            (s3("POST", "/b?delete"), "s3:DeleteObjects"),
            (s3("PUT", "/b/functions/k.zip?x-id=PutObject"), "s3:PutObject"),
            (s3("PUT", "/b/k?tagging"), "s3:PutObjectTagging"),
            (s3("PATCH", "/b/k"), "s3:PATCH /b/k"),
            (
                lambda("GET", &format!("{function}/configuration")),
                "lambda:GetFunctionConfiguration",
            ),
            (lambda("PUT", &format!("{function}/code")), "lambda:UpdateFunctionCode"),
            (lambda("POST", &format!("{function}/versions")), "lambda:PublishVersion"),
            (lambda("GET", "/nothing"), "lambda:GET /nothing"),
        ] {
            assert_eq!(call.name, name);
            assert_eq!(call.access_key, "key");
        }
    }

    #[test]
    fn calls_are_recognized() {
        let call = |uri: &str, service: &str, body: &str| {
            let request = Request::put(uri).header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential=k/d/r/{service}/aws4_request"),
            );
            let (head, ()) = request.body(()).unwrap().into_parts();
            Call::of(&head, body.as_bytes())
        };
        let put = call("/b/functions/k.zip?x-id=PutObject", "s3", "...");
        assert_eq!((put.parameter("Bucket"), put.parameter("Key")), ("b", "functions/k.zip"));
        let form = call("/", "cloudformation", "Action=DeleteStack&StackName=a%2Fb+c");
        assert_eq!(form.parameter("StackName"), "a/b c");
        let code = call(
            "/2015-03-31/functions/f/code",
            "lambda",
            r#"{"ZipFile": "...", "Publish": true}"#,
        );
        assert_eq!(code.parameters, json!({"FunctionName": "f", "Publish": true}));
    }
}
