// Claims a cluster for a node: the function in JavaScript.

import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  UpdateItemCommand,
} from "@aws-sdk/client-dynamodb";

const dynamodb = new DynamoDBClient({});
const CLOCK_SKEW = 5;

export async function handler(event, context) {
  const { cluster_id, node_ip_addr_or_hostname: node } = JSON.parse(event.body);
  const item = await claim(cluster_id, node);
  const initial = item.initial_node_ip_addr_or_hostname.S;
  console.log(JSON.stringify({ level: "INFO", status: 200, request_id: context.awsRequestId }));
  return {
    statusCode: 200,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      cluster_id,
      initial_node_ip_addr_or_hostname: initial,
      is_initial_node: initial === node,
      state: item.state.S,
      generation: Number(item.generation.N),
    }),
  };
}

async function claim(cluster_id, node) {
  const now = Math.floor(Date.now() / 1000);
  const command = new UpdateItemCommand({
    TableName: process.env.TABLE_NAME,
    Key: { cluster_id: { S: cluster_id } },
    ConditionExpression: "attribute_not_exists(#id) OR (#state = :claimed AND #lease < :lapsed)",
    UpdateExpression:
      "SET #initial = :node, #state = :claimed, #claimed_at = :now, " +
      "#generation = if_not_exists(#generation, :zero) + :one REMOVE #lease, #expires",
    ExpressionAttributeNames: {
      "#id": "cluster_id",
      "#initial": "initial_node_ip_addr_or_hostname",
      "#state": "state",
      "#generation": "generation",
      "#claimed_at": "claimed_at",
      "#lease": "lease_expires_at",
      "#expires": "expires_at",
    },
    ExpressionAttributeValues: {
      ":node": { S: node },
      ":claimed": { S: "claimed" },
      ":zero": { N: "0" },
      ":one": { N: "1" },
      ":now": { N: `${now}` },
      ":lapsed": { N: `${now - CLOCK_SKEW}` },
    },
    ReturnValues: "ALL_NEW",
    ReturnValuesOnConditionCheckFailure: "ALL_OLD",
  });
  try {
    return (await dynamodb.send(command)).Attributes;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return error.Item;
    throw error;
  }
}
