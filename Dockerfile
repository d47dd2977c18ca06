# docker build -t thermocline . && docker run --rm --stop-timeout 40 -p 127.0.0.1:8080:8080 -v thermocline:/cache thermocline
# Inside a container the server listens on every address of the container; -p decides who reaches it. Before it is
# reached from elsewhere, or by a name others could own: -e THERMOCLINE_API_KEY=...
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin thermocline

FROM debian:bookworm-slim
RUN useradd --system --create-home --home-dir /cache thermocline
COPY --from=build /source/target/release/thermocline /usr/local/bin/thermocline
USER thermocline
ENV XDG_CACHE_HOME=/cache HF_HOME=/cache/hub THERMOCLINE_HOST=0.0.0.0
VOLUME /cache
EXPOSE 8080
ENTRYPOINT ["thermocline"]
CMD ["serve"]
