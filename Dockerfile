# bigrec_jax with its pinned libraries; the entry point is main.py.
#   bash launch/container.sh build            the CPU's
#   bash launch/container.sh build --extra=cuda
# launch/container.sh says how it is run.
FROM python:3.11-slim
# cpu | cuda | tpu
ARG EXTRA=cpu
WORKDIR /opt/bigrec_jax
# What the libraries depend on, first: a change of the code keeps that layer.
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
RUN mkdir bigrec_jax && touch bigrec_jax/__init__.py \
  && case "$EXTRA" in \
    cpu) extras="" ;; \
    cuda) extras="[cuda]" ;; \
    # jax[tpu] pins the libtpu that it runs on; ours only compiles.
    tpu) extras="[tpu]"; sed -i "/^libtpu==/d" constraints.txt ;; \
    *) echo "error: EXTRA: $EXTRA found, cpu, cuda or tpu expected" >&2; exit 2 ;; \
  esac \
  && pip install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt --editable ".$extras"
COPY main.py ./
COPY configs ./configs
COPY bigrec_jax ./bigrec_jax
# Nobody by default; launch/container.sh makes it the caller, whose files then
# belong to the caller. A home that anyone may write to: libraries keep caches.
RUN useradd --create-home --uid 10001 bigrec && chmod 1777 /home/bigrec
ENV HOME=/home/bigrec PYTHONUNBUFFERED=1
USER bigrec
ENTRYPOINT ["python", "/opt/bigrec_jax/main.py"]
