# Two images from one source, each with its programs, their libraries, and no compiler.
#
#   docker build --target serve -t moco-serve .
#   docker run --rm -p 8080:8080 -v "$PWD/model.onnx:/model/model.onnx:ro" -v moco-data:/data moco-serve
#
#   docker build --target train -t moco-train .                        # --build-arg CUDA=1 for GPUs
#   docker run --rm -v "$PWD:/runs" moco-train pretrain --recipe v2 --data /runs/images --out /runs/run
#
# `make docker-check` replays these steps without Docker.

FROM rust:1.95-bookworm AS source
RUN apt-get update && apt-get install -y --no-install-recommends g++ make python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /moco
# The lists first: libraries are fetched anew when these change, not with every line of Rust.
COPY Makefile ./
COPY setup ./setup
ARG CUDA=0
RUN make setup CUDA=${CUDA}
COPY . .

# The packages that need no libtorch.
FROM source AS serve-build
RUN cargo build --locked --release

FROM source AS train-build
RUN cargo build --locked --release --workspace
# What only compiling needs.
RUN rm -rf .native/libtorch/include

FROM debian:bookworm-slim AS serve
COPY --from=serve-build /moco/target/release/moco-serve /usr/local/bin/moco-serve
COPY --from=serve-build /moco/.native/onnxruntime/lib/libonnxruntime.so.1 /usr/local/lib/libonnxruntime.so.1
COPY --from=serve-build /moco/.native/onnxruntime/licences /moco/LICENSE-MIT /moco/LICENSE-APACHE /usr/local/share/licences/moco/
# A number, so that Kubernetes can see that it is not root.
RUN install -d -o 10001 -g 10001 /data
USER 10001:10001
VOLUME /data
ENV MOCO_MODEL=/model/model.onnx MOCO_DATA_DIR=/data MOCO_LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["moco-serve", "health"]
ENTRYPOINT ["moco-serve"]

FROM debian:bookworm-slim AS train
COPY --from=train-build /moco/target/release/moco-train /moco/target/release/moco-export /usr/local/bin/
# Where the programs were told to look for them.
COPY --from=train-build /moco/.native /moco/.native
COPY --from=train-build /moco/LICENSE-MIT /moco/LICENSE-APACHE /usr/local/share/licences/moco/
WORKDIR /runs
ENTRYPOINT ["moco-train"]
