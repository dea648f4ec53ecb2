# hierseg in a container; without arguments it runs the demo and leaves everything in /out:
#
#   docker build -t hierseg .
#   docker run --rm -v "$PWD/out:/out" hierseg
#   docker run --rm -v "$PWD:/work" -w /work hierseg hierseg train DATA --taxonomy T.yaml
#
# Without a GPU the image is several times smaller with PyTorch's CPU build. Pass what pip needs for it, as the selector
# on PyTorch's "Get started" page shows it: --build-arg TORCH_ARGS="--index-url …"
FROM python:3.12-slim

ARG TORCH_ARGS=""
ENV PIP_NO_CACHE_DIR=1 NO_ALBUMENTATIONS_UPDATE=1 MPLBACKEND=agg

# the level loss compiles a small kernel at first use; without a compiler it runs in plain PyTorch, a few times slower
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home hierseg && mkdir /out && chown hierseg /out
RUN pip install torch torchvision ${TORCH_ARGS}

COPY . /src
RUN pip install /src && rm -rf /src

USER hierseg
WORKDIR /out
CMD ["hierseg", "demo", "--out", "/out/hierseg-demo"]
