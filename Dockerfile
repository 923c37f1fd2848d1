# syntax=docker/dockerfile:1
# One binary and the manifests on a small Debian. Needs BuildKit (for the caches).
#   docker build -t gristmill .
#   docker run --rm -v "$PWD:/data" gristmill run my.toml
# Paths in manifests are relative to the manifest; runs go to /data/runs. Files belong to user 1000: add  --user "$(id -u):$(id -g)"  if you are another.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package pipeline --bin gristmill \
    && install -D target/release/gristmill /out/gristmill

FROM debian:bookworm-slim
RUN useradd --uid 1000 --create-home gristmill && install -d -o gristmill -g gristmill /data
# For inputs at https:// and s3://.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/gristmill /usr/local/bin/gristmill
COPY LICENSE /usr/share/doc/gristmill/
COPY manifests /usr/share/gristmill/manifests
USER gristmill
WORKDIR /data
ENTRYPOINT ["gristmill"]
CMD ["--help"]
