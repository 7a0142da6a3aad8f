# syntax=docker/dockerfile:1
# What serves with ONNX Runtime, without PyTorch: the bundled weights, and models of `stmixer-weights export`.
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml lock.txt README.md LICENSE ./
COPY stmixer stmixer
COPY model model
COPY media media
COPY service service
COPY trainer trainer
COPY weights weights
RUN VIRTUAL_ENV=/venv /venv/bin/uv pip install --no-cache --constraint lock.txt .

FROM python:3.12.12-slim-bookworm
RUN useradd --system --uid 10001 --create-home stmixer
COPY --from=build /venv /venv
USER 10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    STMIXER_HOST=0.0.0.0 STMIXER_DEVICE=cpu
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# it asks for keys: mount their file and name it in STMIXER_KEYS, or say STMIXER_ALLOW_ANONYMOUS=true
# exec form: no shell stands between SIGTERM and the service
STOPSIGNAL SIGTERM
ENTRYPOINT ["stmixer", "serve"]
