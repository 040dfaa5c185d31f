# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/shortlist
ENV PATH=/opt/shortlist/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# torch has its own layer, because it is the largest. For a CPU build pass its index: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install "$(grep '^torch==' constraints.txt)"
COPY . .
# HNSWLIB_NO_NATIVE: hnswlib then runs on any processor of the architecture, not only on the builder's.
RUN HNSWLIB_NO_NATIVE=1 pip install --constraint constraints.txt '.[server]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 shortlist && install --directory --owner=shortlist /data
COPY --from=build /opt/shortlist /opt/shortlist
# Models from a hub go into the volume, so that the rest may be read-only.
ENV PATH=/opt/shortlist/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/data/huggingface
USER shortlist
VOLUME /data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["shortlist", "health", "--target", "127.0.0.1:50051", "--timeout", "4"]
# The server listens on all addresses: it needs --api-keys-file, --api-key or --insecure to start.
ENTRYPOINT ["shortlist", "serve", "--listen", "0.0.0.0:50051", "--data-dir", "/data"]
