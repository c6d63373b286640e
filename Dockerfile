# eyeswap in a container.
#
#   docker build -t eyeswap .
#   docker run --rm -v "$PWD:/work" eyeswap study run /eyeswap/studies/quickstart.yaml
#
# The wheels of torch for Linux bring CUDA along, so with the NVIDIA container toolkit the same image runs on a GPU
# (docker run --gpus all ...). Another base, such as an image that has torch already, is given by --build-arg BASE=...

ARG BASE=python:3.12-slim
FROM ${BASE}

# The C core of the scans is compiled when it is first used; without a compiler numba runs instead.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /eyeswap
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY studies studies
COPY recipes recipes
RUN pip install --no-cache-dir .

RUN useradd --create-home --uid 1000 user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["eyeswap"]
CMD ["--help"]
