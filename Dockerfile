# The detector side by default; EXTRAS="[video]" or "[generation]" adds the sides left of the store.
# PYTHON: 3.11, 3.12 or 3.13; the newest one has the newest JAX.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim
ARG EXTRAS=""
ARG TORCH_INDEX=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gvvad_jax gvvad_jax
COPY generation generation
COPY tools tools
COPY configs configs
# torch first and pinned where it is wanted at all, as in the Makefile.
RUN if [ "$EXTRAS" = "[generation]" ]; then \
      pip install --no-cache-dir ${TORCH_INDEX:+--index-url $TORCH_INDEX} \
        "$(grep '^torch==' constraints.txt)"; \
    fi && \
    pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS}"
ENTRYPOINT ["python", "-m"]
CMD ["gvvad_jax.train", "--help"]
