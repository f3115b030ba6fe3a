#!/bin/bash
# EC2 user data for Amazon Linux 2023 with Couchbase Server in the AMI. All instances run this script and become one cluster, with
# one server group for each Availability Zone.
#
# Fill in the settings below, or set them and any other option of the agent in the environment (`cbbootstrap-agent up --help` lists the
# variables). The instance's role needs
#   secretsmanager:GetSecretValue, or ssm:GetParameter and kms:Decrypt   for the password and the cluster secret
#   s3:GetObject                                                         for the agent
#   execute-api:Invoke                                                   with CBBOOTSTRAP_AUTH=iam
#
# cloud-init runs it at the first boot; install cbbootstrap-agent.service as well, so that the agent also handles reboots, failovers and
# terminations. You can run it again after a failure. The log is /var/log/cloud-init-output.log. The script never writes the password or
# the secret to a log or a file, and never passes them as arguments or environment variables.
set -euo pipefail

# The API's endpoint, the cluster ID, and `iam` if the API requires signed requests.
export CBBOOTSTRAP_API="${CBBOOTSTRAP_API:-https://API-ID.execute-api.us-east-1.amazonaws.com}"
export CBBOOTSTRAP_CLUSTER_ID="${CBBOOTSTRAP_CLUSTER_ID:-mycluster}"
export CBBOOTSTRAP_AUTH="${CBBOOTSTRAP_AUTH:-none}"
export CBBOOTSTRAP_SERVICES="${CBBOOTSTRAP_SERVICES:-data,index,query}"
# The administrator's password: secretsmanager:NAME (the secret's value is the password) or ssm:NAME.
PASSWORD_FROM="${PASSWORD_FROM:-secretsmanager:couchbase/administrator}"
# The cluster secret: at least 16 random characters, the same on all nodes.
SECRET_FROM="${SECRET_FROM:-secretsmanager:couchbase/cluster-secret}"
# The agent, if it is not in the AMI: its location, its SHA-256, and the directory to install it in.
AGENT_URL="${AGENT_URL:-s3://BUCKET/cbbootstrap-agent}"
AGENT_SHA256="${AGENT_SHA256:-}"
AGENT_DIRECTORY="${AGENT_DIRECTORY:-/usr/local/bin}"
# Attempts for each AWS call, 5 s apart, because a new role takes a while to become effective.
TRIES="${TRIES:-12}"

PATH="$AGENT_DIRECTORY:$PATH"

# Instance metadata (IMDSv2).
imds="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}"
imds="${imds%/}/latest"
ask() {
    curl --fail --silent --show-error --noproxy '*' --max-time 5 --retry 5 --retry-connrefused "$@"
}
token=$(ask --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$imds/api/token")
metadata() {
    ask --header "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"
}
region="${AWS_REGION:-${AWS_DEFAULT_REGION:-$(metadata placement/region)}}"

with_patience() {
    local try
    for ((try = 1; try < TRIES; try++)); do
        "$@" && return
        sleep 5
    done
    "$@"
}

install_agent() {
    local new
    new=$(mktemp "$AGENT_DIRECTORY/.cbbootstrap-agent.XXXXXX")
    if with_patience aws --region "$region" s3 cp --only-show-errors "$AGENT_URL" "$new" &&
        sha256sum --check --quiet <<<"$AGENT_SHA256  $new"; then
        chmod 755 "$new"
        mv "$new" "$AGENT_DIRECTORY/cbbootstrap-agent"
    else
        rm -f "$new"
        echo "the agent from $AGENT_URL was not installed" >&2
        return 1
    fi
}

secret_from() {
    local name="${1#*:}"
    case "$1" in
    secretsmanager:*)
        aws --region "$region" secretsmanager get-secret-value --secret-id "$name" --query SecretString --output text
        ;;
    ssm:*)
        aws --region "$region" ssm get-parameter --name "$name" --with-decryption --query Parameter.Value --output text
        ;;
    *)
        echo "PASSWORD_FROM and SECRET_FROM are secretsmanager:NAME or ssm:NAME" >&2
        exit 2
        ;;
    esac
}

command -v cbbootstrap-agent >/dev/null || install_agent

if [ -z "${CBBOOTSTRAP_SERVER_GROUP:-}" ]; then
    CBBOOTSTRAP_SERVER_GROUP=$(metadata placement/availability-zone)
fi
export CBBOOTSTRAP_SERVER_GROUP

# These shell variables are not exported; the agent gets them through pipes.
set +x
administrator=$(with_patience secret_from "$PASSWORD_FROM")
secret=$(with_patience secret_from "$SECRET_FROM")
status=0
printf '%s\n' "$administrator" |
    cbbootstrap-agent up --password-file - --secret-file <(printf '%s\n' "$secret") || status=$?
# 6: the node is a member, and the log names the setting that was refused.
[ "$status" -eq 6 ] || exit "$status"
