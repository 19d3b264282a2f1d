# docker build --build-arg GIT_SHA=$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) -t dgx-gateway .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG GIT_SHA=
ARG SOURCE_DATE_EPOCH=
# paths of this stage are of no use to anybody, in messages neither
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=/cargo"
RUN cargo build --release --locked --bin dgx-gateway && mkdir /data

# libc, libgcc and certificates, and no shell; its user is 65532
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/dgx-gateway /usr/bin/dgx-gateway
COPY --from=build --chown=65532:65532 --chmod=0700 /data /data
USER 65532:65532
# conf/gateway.yaml and auth/tokens.yaml are looked for here; without them it starts with a demo and a bearer of its own
WORKDIR /etc/dgx-gateway
ENV DGX_GATEWAY_LISTEN=0.0.0.0:3000 \
    DGX_GATEWAY_DATA_DIR=/data
VOLUME ["/data"]
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["dgx-gateway", "health"]
ENTRYPOINT ["dgx-gateway"]
CMD ["serve"]
