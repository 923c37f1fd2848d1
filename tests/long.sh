#!/usr/bin/env bash
# What the gate has no time for. usage: tests/long.sh [SEED]
#   1. every single kill ordinal of the micro manifest (the gate tries every tenth);
#   2. the quickstart at 1 and 2 threads: equal digests;
#   3. the quickstart killed 20 times at random moments: equal digests;
#   4. 2.7 GB of pages through extraction, filters and dedup at a memory limit of 256 MB (needs python3);
#   5. BPE training against a full recount on 10,000 small corpora, all tie rules, to exhaustion.
# SEED chooses the moments.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-1}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo build --release --workspace --tests
gm=target/release/gristmill

echo "== every kill ordinal"
# Kills of a process need no disk that syncs, and memory is faster.
[ -w /dev/shm ] && memory=/dev/shm || memory=$out
TMPDIR=$memory GRISTMILL_KILL_STRIDE=1 cargo test --release -p pipeline --test gristmill kills

echo "== the quickstart at 1 and 2 threads"
for threads in 1 2; do
  began=$SECONDS
  $gm run manifests/quickstart.toml --root "$out/$threads" --threads $threads 2>/dev/null
  total=$((SECONDS - began))
  $gm verify "$out/$threads/quickstart" >"$out/$threads.digests"
done
diff "$out/1.digests" "$out/2.digests" && echo "equal digests for $(wc -l <"$out/1.digests") stages"

echo "== the quickstart, killed 20 times (seed $seed)"
# Lives of random length, a quarter of the whole run at most: several runs are killed on their way from the crawl to the export, and
# each that comes to its end is compared and begun anew.
RANDOM=$seed
kills=0
compare() {
  $gm verify "$out/killed/quickstart" >"$out/killed.digests"
  diff "$out/2.digests" "$out/killed.digests" && echo "equal digests after $kills kills"
  rm -rf "$out/killed"
}
while [ $kills -lt 20 ]; do
  $gm run manifests/quickstart.toml --root "$out/killed" --threads 2 2>"$out/last" &
  pid=$!
  sleep "$(awk "BEGIN { print $RANDOM / 32768 * $total / 4 }")"
  if kill -9 $pid 2>/dev/null; then
    wait $pid 2>/dev/null || true
    kills=$((kills + 1))
    echo "kill $kills: $(tail -n 1 "$out/last" | cut -c 1-60)"
  else
    wait $pid
    compare
  fi
done
$gm run manifests/quickstart.toml --root "$out/killed" --threads 2 2>/dev/null
compare

echo "== 2.7 GB at a memory limit of 256 MB"
python3 tests/memory.py $gm "$out/memory" 2700 "$seed"

echo "== training against a full recount on 10,000 small corpora"
cargo test --release -p tokenizer --lib -- --ignored ten_thousand
