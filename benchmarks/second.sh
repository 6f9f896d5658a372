export JAX_COMPILATION_CACHE_DIR=/tmp/jc JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 XLA_PYTHON_CLIENT_PREALLOCATE=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
start=$(date +%s)
python3 -m benchmarks.check_cudnn 2>&1 | tail -7 || true
python3 -m benchmarks.check_cudnn >/dev/null 2>&1 || { echo NO CUDNN; sed -i 's/and _has_cudnn()/and False/' toklip_jax/ops/attention.py; }
for p in inference train_step sampling_b sampling_xl; do timeout 95 python3 -m benchmarks.run --suite=gpu --part=$p --out=/tmp/$p.json 2>$OUT/$p.err & done; wait
echo warm $(( $(date +%s) - start )); ls /tmp/jc | wc -l; ls /tmp/*.json
timeout -s INT 158 python3 -m benchmarks.run --suite=gpu --only=inference,train_step,sampling_b,sampling_xl,nearest_wide --results=$OUT 2>&1 | grep -v "^ \|Traceback"
cp /tmp/*.json $OUT/
python3 -m benchmarks.run --suite=gpu --results=$OUT --show
