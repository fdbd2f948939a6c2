# syntax=docker/dockerfile:1
# Checked by reading and by linters only, not built yet: there was no Docker engine at hand.
# Two images: `postgres` (the default), PostgreSQL 15 with pg_cdc preloaded, and `companion-sink`.
#   docker build --tag pg_cdc .
#   docker build --target companion-sink --tag companion-sink .

# --- build: the same Debian as the images below, so that libc and OpenSSL fit
FROM rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions come with the Debian release. No server is started: only pg_config and the headers are needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        clang libclang-dev libssl-dev libzstd-dev pkg-config postgresql-server-dev-15 zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
# Its own layer: five minutes that only change with pgrx. `init` takes a pg_config even where no server is installed.
RUN cargo install cargo-pgrx --version =0.18.1 --locked \
    && cargo pgrx init --pg15=/usr/lib/postgresql/15/bin/pg_config
WORKDIR /src
COPY . .
RUN cargo pgrx package --pg-config /usr/lib/postgresql/15/bin/pg_config \
    && cargo build --release --locked --package companion-sink

# --- companion-sink
FROM debian:bookworm-slim AS companion-sink
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/companion-sink /usr/local/bin/
USER nobody
ENTRYPOINT ["companion-sink"]
CMD ["run"]

# --- PostgreSQL with pg_cdc; no USER: the entry point of the official image becomes postgres by itself
FROM postgres:15-bookworm AS postgres
COPY --from=build /src/target/release/pg_cdc-pg15/ /
RUN echo "shared_preload_libraries = 'pg_cdc'" >> /usr/share/postgresql/postgresql.conf.sample
