# Coral's container image: the static program and the CA certificates, nothing else.
#
#   RUSTFLAGS="-C target-feature=+crt-static" \
#     cargo build --release --target x86_64-unknown-linux-gnu -p coral
#   docker build -t registry.example.org/coral:1 .
#
# `coral image DST` makes the same image without Docker.

# Any image with a shell and /etc/ssl/certs/ca-certificates.crt.
ARG BASE=docker.io/library/alpine:3.22

FROM ${BASE} AS files
# Where the program is, in the build context.
ARG BINARY=target/x86_64-unknown-linux-gnu/release/coral
COPY ${BINARY} /image/coral
RUN mkdir -p /image/etc/ssl/certs \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && mkdir /image/tmp \
 && chmod 1777 /image/tmp \
 && chmod 755 /image/coral

FROM scratch
COPY --from=files /image/ /
ENV PATH=/
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/coral"]
