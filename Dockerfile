# syntax=docker/dockerfile:1
# `docker build --target cpu .` or `--target cuda .`; docs/server.md says how the image is run.

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 OMP_WAIT_POLICY=PASSIVE \
    HF_HOME=/models/huggingface SANA_MODELS=/models/sana SANA_CACHE=/models/cache SANA_RUNTIME=/tmp/sana
RUN useradd --create-home --uid 1000 sana && mkdir -p /models /pictures && chown sana /models /pictures
WORKDIR /src
COPY . .

FROM base AS cpu
RUN pip install --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple ".[serve]"
USER sana
WORKDIR /home/sana
VOLUME ["/models", "/pictures"]
EXPOSE 7262
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7262/healthz', timeout=5)"]
# A key is needed, since the container is reached from outside: -e SANA_API_KEY=..., or --api-key-file
ENTRYPOINT ["sana", "serve", "--host", "0.0.0.0", "--output", "/pictures/"]

FROM base AS cuda
# PyPI's wheels of torch for Linux bring CUDA along; the host brings the driver.
RUN pip install ".[serve]"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER sana
WORKDIR /home/sana
VOLUME ["/models", "/pictures"]
EXPOSE 7262
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7262/healthz', timeout=5)"]
ENTRYPOINT ["sana", "serve", "--host", "0.0.0.0", "--output", "/pictures/"]
