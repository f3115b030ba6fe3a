"""Claims a cluster for a node: the function in Python."""

import json
import os
import time

import boto3

DYNAMODB = boto3.client("dynamodb")
TABLE = os.environ["TABLE_NAME"]
CLOCK_SKEW = 5


def handler(event, context):
    claim = json.loads(event["body"])
    cluster, node = claim["cluster_id"], claim["node_ip_addr_or_hostname"]
    now = int(time.time())
    try:
        item = DYNAMODB.update_item(
            TableName=TABLE,
            Key={"cluster_id": {"S": cluster}},
            ConditionExpression="attribute_not_exists(#id) OR (#state = :claimed AND #lease < :lapsed)",
            UpdateExpression="SET #initial = :node, #state = :claimed, #claimed_at = :now, "
            "#generation = if_not_exists(#generation, :zero) + :one REMOVE #lease, #expires",
            ExpressionAttributeNames={
                "#id": "cluster_id",
                "#initial": "initial_node_ip_addr_or_hostname",
                "#state": "state",
                "#generation": "generation",
                "#claimed_at": "claimed_at",
                "#lease": "lease_expires_at",
                "#expires": "expires_at",
            },
            ExpressionAttributeValues={
                ":node": {"S": node},
                ":claimed": {"S": "claimed"},
                ":zero": {"N": "0"},
                ":one": {"N": "1"},
                ":now": {"N": str(now)},
                ":lapsed": {"N": str(now - CLOCK_SKEW)},
            },
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )["Attributes"]
    except DYNAMODB.exceptions.ConditionalCheckFailedException as error:
        item = error.response["Item"]
    initial = item["initial_node_ip_addr_or_hostname"]["S"]
    print(json.dumps({"level": "INFO", "status": 200, "request_id": context.aws_request_id}))
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(
            {
                "cluster_id": cluster,
                "initial_node_ip_addr_or_hostname": initial,
                "is_initial_node": initial == node,
                "state": item["state"]["S"],
                "generation": int(item["generation"]["N"]),
            }
        ),
    }
