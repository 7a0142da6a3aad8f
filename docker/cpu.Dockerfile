# What serves with ONNX Runtime, without PyTorch: the bundled weights, and models of `stmixer-weights export`.
FROM python:3.12.15-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3 AS build
WORKDIR /app
COPY .ci/uv.txt .ci/uv.txt
RUN python -m venv /tools && /tools/bin/pip install --no-cache-dir --require-hashes --requirement .ci/uv.txt
RUN python -m venv --without-pip /venv
COPY pyproject.toml lock.txt README.md LICENSE ./
COPY stmixer stmixer
COPY model model
COPY media media
COPY service service
COPY trainer trainer
COPY weights weights
RUN VIRTUAL_ENV=/venv /tools/bin/uv pip install --no-cache --constraint lock.txt --build-constraints lock.txt .

FROM python:3.12.15-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3
RUN useradd --system --uid 10001 --create-home stmixer
COPY --from=build /venv /venv
USER 10001
WORKDIR /
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    STMIXER_HOST=0.0.0.0 STMIXER_DEVICE=cpu
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# it asks for keys: mount their file and name it in STMIXER_KEYS, or say STMIXER_ALLOW_ANONYMOUS=true
# exec form: no shell stands between SIGTERM and the service
STOPSIGNAL SIGTERM
ENTRYPOINT ["stmixer", "serve"]
