//! Dollars in us-east-1, in the first paid tier. No number of requests in a report leaves it.

/// A million requests of an HTTP API: <https://aws.amazon.com/api-gateway/pricing/>
pub const HTTP_API: f64 = 1.00;
/// A million requests of a REST API, from the same page.
pub const REST_API: f64 = 3.50;
/// A million invocations: <https://aws.amazon.com/lambda/pricing/>
pub const INVOCATIONS: f64 = 0.20;
/// A GB-second on x86, from the same page.
pub const GB_SECOND: f64 = 0.000_016_666_7;
/// A million write request units: <https://aws.amazon.com/dynamodb/pricing/on-demand/>
pub const WRITES: f64 = 0.625;
/// A million read request units, from the same page.
pub const READS: f64 = 0.125;
/// A GB of logs: <https://aws.amazon.com/cloudwatch/pricing/>
pub const LOG_GB: f64 = 0.50;

/// The duration of a DynamoDB call in AWS, which Lambda bills, in milliseconds: a usual value, not a measured one.
pub const CALL: f64 = 5.0;

/// The bytes of Lambda's START, END and REPORT lines, which the stack turns off.
pub const LAMBDA_LOG: f64 = 330.0;
