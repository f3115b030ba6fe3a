//! IAM: simulates what a caller's policies allow.

use aws_sdk_iam::{
    Client,
    types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType},
};

use super::error::Answer;
use crate::failure::Failure;

/// Actions on resources, with the values of condition keys.
#[derive(Clone, Debug)]
pub struct Request {
    pub actions: Vec<String>,
    pub resources: Vec<String>,
    pub context: Vec<(String, String)>,
}

/// The ARN of a role, whose path the ARN of a session does not contain.
pub async fn role_arn(client: &Client, name: &str) -> Result<String, Failure> {
    let role = client.get_role().role_name(name).send().await;
    let role = role.explain(format!("cannot read role `{name}`"))?;
    Ok(role.role.map(|role| role.arn).unwrap_or_default())
}

/// The actions that the policies of a user or role do not allow.
pub async fn denied_actions(
    client: &Client,
    principal: &str,
    request: Request,
) -> Result<Vec<String>, Failure> {
    let entry = |(key, value): (String, String)| {
        ContextEntry::builder()
            .context_key_name(key)
            .context_key_values(value)
            .context_key_type(ContextKeyTypeEnum::String)
            .build()
    };
    let results = client
        .simulate_principal_policy()
        .policy_source_arn(principal)
        .set_action_names(Some(request.actions))
        .set_resource_arns(Some(request.resources))
        .set_context_entries(Some(request.context.into_iter().map(entry).collect()))
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .explain(format!("cannot simulate the policies of `{principal}`"))?;
    let denied = results
        .into_iter()
        .filter(|result| result.eval_decision != PolicyEvaluationDecisionType::Allowed);
    Ok(denied.map(|result| result.eval_action_name).collect())
}
