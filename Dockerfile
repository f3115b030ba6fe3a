# Images of the API's server, of the agent, and of Couchbase Server with the agent (for Compose and Swarm). They take programs that
# are built first:
#
#   cargo build --release --bin cbbootstrap --bin cbbootstrap-agent
#   docker build --target server --tag cbbootstrap:0.1.0 .
#   docker build --target agent --tag cbbootstrap-agent:0.1.0 .
#   docker build --target couchbase --tag couchbase-with-agent:7.6.8 .
#
# Build the programs on a system whose glibc is not newer than the images', such as Debian stable. To use programs from another
# directory than `target/release`, pass `--build-arg PROGRAMS=DIRECTORY` and add the directory to .dockerignore.

ARG COUCHBASE=couchbase:enterprise-7.6.8

FROM debian:stable-slim AS base
# Certificate authorities, to call an API in AWS (agent) and DynamoDB (`serve --table`).
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
# Numeric, because `runAsNonRoot` in Kubernetes cannot check a name.
USER 10001:10001
VOLUME /var/lib/cbbootstrap
EXPOSE 8080
# With `--tls-cert`, override it as examples/compose.yaml does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["cbbootstrap", "ping", "http://127.0.0.1:8080"]
ENTRYPOINT ["cbbootstrap"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/var/lib/cbbootstrap"]

FROM base AS agent
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
USER 10001:10001
# The start period covers the rebalance after which the node is healthy.
HEALTHCHECK --interval=30s --timeout=30s --start-period=10m CMD ["cbbootstrap-agent", "status"]
ENTRYPOINT ["cbbootstrap-agent"]
CMD ["up"]

FROM ${COUCHBASE} AS couchbase
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
