# Images of the API's server, of the agent, and of Couchbase Server with the agent (for Compose and Swarm). Build the programs first:
#
#   cargo build --release --bin cbbootstrap --bin cbbootstrap-agent
#   docker build --target server --tag cbbootstrap:0.1.0 .
#   docker build --target agent --tag cbbootstrap-agent:0.1.0 .
#   docker build --target couchbase --tag couchbase-with-agent:7.6.8 .
#
# Build them on a system whose glibc is not newer than the images', such as Debian stable. If they are not in `target/release`, pass
# `--build-arg PROGRAMS=DIRECTORY`, and allow the programs in .dockerignore.

ARG COUCHBASE=couchbase:enterprise-7.6.8

FROM debian:stable-slim AS base
# Certificate authorities, with which the agent verifies the API, and `serve --table` verifies DynamoDB.
RUN dpkg --status ca-certificates >/dev/null 2>&1 || { \
        apt-get update && \
        apt-get install --yes --no-install-recommends ca-certificates && \
        rm -rf /var/lib/apt/lists/*; \
    }
RUN useradd --uid 10001 --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin cbbootstrap

FROM base AS server
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap /usr/local/bin/
RUN install --directory --owner cbbootstrap --group cbbootstrap --mode 0700 /var/lib/cbbootstrap
# A number, because Kubernetes cannot check `runAsNonRoot` with a name.
USER 10001:10001
VOLUME /var/lib/cbbootstrap
EXPOSE 8080
# With `--tls-cert`, override it as in examples/compose.yaml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["cbbootstrap", "ping", "http://127.0.0.1:8080"]
ENTRYPOINT ["cbbootstrap"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/var/lib/cbbootstrap"]

FROM base AS agent
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
USER 10001:10001
# The start period covers the first rebalance, during which the node is not healthy.
HEALTHCHECK --interval=30s --timeout=30s --start-period=10m CMD ["cbbootstrap-agent", "status"]
ENTRYPOINT ["cbbootstrap-agent"]
CMD ["run"]

FROM ${COUCHBASE} AS couchbase
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
