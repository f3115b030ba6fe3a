# Images of the API's server and of the agent, from programs that are built before:
#
#   cargo build --release --bin cbbootstrap --bin cbbootstrap-agent
#   docker build --target server --tag cbbootstrap:0.1.0 .
#   docker build --target agent --tag cbbootstrap-agent:0.1.0 .
#   docker build --target couchbase --tag couchbase-with-agent:7.6.8 .
#
# The last is Couchbase Server with the agent in it, for Compose and Swarm. Build the programs on a system whose glibc is no newer than
# that of the images, for example on Debian's current release or the one before. `--build-arg PROGRAMS=DIRECTORY` takes the programs
# from another directory than `target/release`; .dockerignore must admit it.

ARG COUCHBASE=couchbase:enterprise-7.6.8

FROM debian:stable-slim AS base
# The agent needs authorities for an API in AWS, and `cbbootstrap serve --table` for DynamoDB.
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
# A number: Kubernetes cannot tell from a name that it is not root.
USER 10001:10001
VOLUME /var/lib/cbbootstrap
EXPOSE 8080
# With `--tls-cert` it has to be another: examples/compose.yaml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["cbbootstrap", "ping", "http://127.0.0.1:8080"]
ENTRYPOINT ["cbbootstrap"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/var/lib/cbbootstrap"]

FROM base AS agent
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
USER 10001:10001
# A node is not well before the rebalance that lets it in has ended.
HEALTHCHECK --interval=30s --timeout=30s --start-period=10m CMD ["cbbootstrap-agent", "status"]
ENTRYPOINT ["cbbootstrap-agent"]
CMD ["up"]

FROM ${COUCHBASE} AS couchbase
ARG PROGRAMS=target/release
COPY ${PROGRAMS}/cbbootstrap-agent /usr/local/bin/
