export PYTHONPATH=/work/snap PATH=/work/main/.venv/bin:$PATH FEWER_MODELS=/root/.cache/fewer-models OMP_NUM_THREADS=1
