# syntax=docker/dockerfile:1
# The binary, built in one image and run in another: `docker compose build tidemill`.

FROM rust:1.95.0-bookworm AS build
# The compiler of this image, whatever rust-toolchain.toml adds for people who write code.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --all-features --bin tidemill \
    && cp target/dist/tidemill /tidemill

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /project --shell /usr/sbin/nologin tidemill \
    && mkdir -p /project/.tidemill \
    && chown -R tidemill:tidemill /project
COPY --from=build /tidemill /usr/local/bin/tidemill
USER tidemill
# The project: mount its files here. What must outlive the container is below .tidemill.
WORKDIR /project
VOLUME /project/.tidemill
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=12 CMD ["tidemill", "health"]
# `tidemill` stops in good order on TERM; it is process 1 and starts no strays.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidemill"]
CMD ["up", "--listen", "0.0.0.0:8080"]
