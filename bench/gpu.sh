#!/bin/bash
# Everything that is to be known of a GPU, in about ten minutes: values (verify), times of kernels, of whole steps with and without
# graphs, of the same steps in PyTorch, an epoch of the search on CIFAR-10 (or as many generated images), and CUDA's own checks of memory and races.
#
# usage: bench/gpu.sh [FOLDER]      writes results.md, results.json and a log of each part there (default: bench/gpu-results)
#
# Needs built programs (cargo build --release --features cuda; cargo build --release -p darts-cuda --features cuda --example
# kernel_times), a driver, and for the comparison a python3 with PyTorch; what is missing is skipped and said to be. A part that
# fails or takes too long fails the whole, but not the other parts. Environment:
#   DARTS_BIN, KERNEL_TIMES   the two programs (default: in target/release)
#   DARTS_DATA                where cifar-10-batches-bin/ lies (default: datasets/)
#   DARTS_BENCH_PYTHON        a python3 with PyTorch (default: python3)
#   DEVICE                    number of the GPU (default: 0)
#   PARTS                     which parts (default: verify kernels steps launches pytorch epoch sanitizer; one more: search, the
#                             whole search of 50 epochs on CIFAR-10, which goes on in FOLDER/search where it was left)
#   PYTORCH_SECONDS           for all of PyTorch's cases together (default: 240)
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
darts=${DARTS_BIN:-$target/darts}
kernel_times=${KERNEL_TIMES:-$target/examples/kernel_times}
python=${DARTS_BENCH_PYTHON:-python3}
device=${DEVICE:-0}
data=${DARTS_DATA:-$root/datasets}
golden=${DARTS_GOLDEN_DIR:-$root/tests/golden}
parts=${PARTS:-verify kernels steps launches pytorch epoch sanitizer}
pytorch_seconds=${PYTORCH_SECONDS:-240}
to=${1:-$root/bench/gpu-results}
export CUDA_VISIBLE_DEVICES=$device
# No quotes in what nvidia-smi and the programs say.
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1)
today=$(date -u +%Y-%m-%d)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$to"
markdown=$to/results.md
entries=$work/entries
: >"$entries"
failed=0

# note KIND NAME STATE SECONDS [JSON of more]: one entry of results.json, and the line that is shown.
note() {
  echo "{\"kind\":\"$1\",\"name\":\"$2\",\"state\":\"$3\",\"wall_seconds\":$4${5:+,$5}}" >>"$entries"
  echo "$1 $2: $3 (${4} s)" >&2
}

# limited SECONDS LOG COMMAND…: runs it, all it says in the log; sets state (ok, failed or too slow) and took.
limited() {
  local limit=$1 log=$2 begin=$SECONDS
  shift 2
  timeout -k 5 "$limit" "$@" >"$log" 2>&1
  case $? in
    0) state=ok ;;
    124 | 137) state="stopped after $limit s" failed=1 ;;
    *) state=failed failed=1 ;;
  esac
  took=$((SECONDS - begin))
}

# median of the numbers on stdin, in milliseconds.
median() {
  sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%.3f", 1000 * (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2) }'
}

wants() { case " $parts " in *" $1 "*) true ;; *) false ;; esac; }

section() { printf '\n## %s\n\n' "$1" >>"$markdown"; }

table_of_log() { printf '```text\n%s\n```\n' "$(cat "$1")" >>"$markdown"; }

printf '# %s, driver %s, %s\n' "$card" "$driver" "$today" >"$markdown"

if wants verify; then
  section 'Values against the golden files'
  limited 120 "$to/verify.log" "$darts" verify --golden "$golden" --device cuda
  note verify golden "$state" "$took"
  printf '%s: %s\n' "$state" "$(tail -1 "$to/verify.log")" >>"$markdown"
fi

if wants kernels; then
  section 'Kernels and passes'
  limited 120 "$to/kernels.log" "$kernel_times" --json "$to/kernels.json"
  note kernels all "$state" "$took"
  table_of_log "$to/kernels.log"
fi

# A run of 80 steps: the median of its logged steps, and of a run of 20 steps and one of 80 the time between.
steps() {
  local name=$1
  shift
  local folder=$work/run begin end short long
  local log=$to/steps-$name.log
  rm -rf "$folder"
  begin=$(date +%s.%N)
  limited 60 "$log" "$darts" "$@" --out "$folder" --max-steps 20 --quiet
  end=$(date +%s.%N)
  short=$(awk "BEGIN { print $end - $begin }")
  rm -rf "$folder"
  if [ "$state" = ok ]; then
    begin=$(date +%s.%N)
    limited 90 "$log" "$darts" "$@" --out "$folder" --max-steps 80 --quiet
    end=$(date +%s.%N)
  fi
  long=$(awk "BEGIN { printf \"%.3f\", ($end - $begin - $short) * 1000 / 60 }")
  local logged
  logged=$(sed -n 's/.*"kind":"step".*"seconds":\([0-9.e-]*\).*/\1/p' "$folder/metrics.jsonl" 2>/dev/null | tail -n +3 | median)
  note steps "$name" "$state" "$took" "\"logged_ms\":${logged:-null},\"mean_ms\":$long"
  printf '| %s | %s | %s | %s |\n' "$name" "$state" "${logged:-–}" "$long" >>"$markdown"
}

if wants steps; then
  section 'Steps of whole runs'
  printf '| run | | median of logged steps, ms | mean of 60 steps, ms |\n|---|---|---|---|\n' >>"$markdown"
  images=(--train-images 20000 --test-images 64 --image-size 32)
  for graph in '' --no-graph; do
    suffix=${graph:+-launches}
    # shellcheck disable=SC2086
    for order in first second; do
      steps "conv-search-$order$suffix" search synthetic-images "${images[@]}" --preset paper --order $order --device cuda $graph
      steps "recurrent-search-$order$suffix" search synthetic-text --preset paper --order $order --device cuda $graph
    done
    # shellcheck disable=SC2086
    steps "conv-evaluation$suffix" train synthetic-images "${images[@]}" --genotype DARTS_V2 --preset paper --device cuda $graph
    # shellcheck disable=SC2086
    steps "recurrent-training$suffix" train synthetic-text --genotype DARTS_V2 --preset paper --device cuda $graph
  done
fi

# A short search as graphs and as launches: the same bytes.
if wants launches; then
  section 'Graphs and their launches'
  for order in first second; do
    for graph in '' --no-graph; do
      # shellcheck disable=SC2086
      limited 60 "$to/launches-$order$graph.log" "$darts" search synthetic-images --train-images 1024 --test-images 64 --image-size 32 \
        --preset paper --epochs 1 --order $order --device cuda $graph --quiet --out "$work/launches$graph"
      [ "$state" = ok ] || break
    done
    if [ "$state" = ok ]; then
      for file in weights.safetensors alphas.jsonl; do
        cmp "$work/launches/$file" "$work/launches--no-graph/$file" >&2 || state="$file differs" failed=1
      done
    fi
    note launches "$order order" "$state" "$took"
    printf 'A search of %s order as graphs and launch by launch, weights and α: %s\n\n' "$order" "${state/#ok/the same bytes}" >>"$markdown"
    rm -rf "$work"/launches*
  done
fi

if wants pytorch; then
  section 'The same steps in PyTorch'
  if "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    printf '| step | variant | | median, ms | allocated, GB |\n|---|---|---|---|---|\n' >>"$markdown"
    end=$((SECONDS + pytorch_seconds))
    export TORCHINDUCTOR_CACHE_DIR=$work/inductor
    # What is wanted most comes first: time may run out.
    while read -r name variant limit count; do
      left=$((end - SECONDS))
      log=$to/pytorch-$name-$variant.log
      if [ $left -lt 10 ]; then
        note pytorch "$name, $variant" 'skipped: no time left' 0
        continue
      fi
      before=$failed
      limited $((limit < left ? limit : left)) "$log" "$python" "$root/bench/pytorch/bench.py" --device cuda \
        --case "$name" --variant "$variant" --warmup 5 --steps "$count"
      # A variant that PyTorch cannot do is PyTorch's.
      failed=$before
      seconds=$(sed -n 's/.*"seconds": \[\([^]]*\)\].*/\1/p' "$log" | tr ',' '\n' | median)
      bytes=$(sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p' "$log" | awk '{ printf "%.2f", $1 / 1e9 }')
      note pytorch "$name, $variant" "$state" "$took" "\"median_ms\":${seconds:-null},\"gigabytes\":${bytes:-null}"
      printf '| %s | %s | %s | %s | %s |\n' "$name" "$variant" "$state" "${seconds:-–}" "${bytes:-–}" >>"$markdown"
    done <<'CASES'
conv-search-weight-step channels-last 40 30
conv-search-weight-step default 40 30
conv-search-weight-step graph 40 30
conv-search-alpha-second default 60 20
conv-evaluation-step graph 40 30
recurrent-search-weight-step default 40 20
recurrent-search-alpha-second default 60 20
conv-search-weight-step bf16 40 30
conv-search-alpha-first default 40 20
conv-evaluation-step channels-last 40 30
recurrent-training-step default 40 20
recurrent-training-step graph 40 20
recurrent-search-weight-step graph 40 20
conv-evaluation-step bf16 40 30
recurrent-search-alpha-first default 40 20
conv-search-weight-step compile 90 30
conv-evaluation-step compile 90 30
CASES
  else
    note pytorch all 'skipped: no python3 with PyTorch for this GPU' 0
    echo 'Skipped: there is no python3 with PyTorch for this GPU.' >>"$markdown"
  fi
fi

if wants epoch; then
  section 'An epoch of the search'
  if [ -d "$data/cifar-10-batches-bin" ]; then
    task=(cifar10 --data "$data")
  else
    # As many images of the same size.
    task=(synthetic-images --train-images 50000 --test-images 64 --image-size 32)
  fi
  limited 240 "$to/epoch.log" "$darts" search "${task[@]}" --preset paper --order first --device cuda --until-epoch 1 --out "$work/epoch" --quiet
  line=$(grep '"kind":"epoch"' "$work/epoch/metrics.jsonl" 2>/dev/null | head -1)
  seconds=$(printf '%s' "$line" | sed -n 's/.*"seconds":\([0-9.e-]*\).*/\1/p')
  note epoch "${task[0]}" "$state" "$took" "\"seconds\":${seconds:-null}"
  printf '%s: %s, first order, 25,000 images and as many for α, then the validation: %s s; the paper has 50 of them\n' "${task[0]}" "$state" "${seconds:-–}" >>"$markdown"
fi

# The whole search. A run that was stopped goes on, so that it may take several calls; its own clock counts them all.
if wants search; then
  section 'The search of 50 epochs'
  limited "${SEARCH_SECONDS:-3600}" "$to/search.log" "$darts" search cifar10 --data "$data" --preset paper --order first --device cuda \
    --out "$to/search" --resume --quiet
  seconds=$(sed -n 's/.*"wall_seconds": *\([0-9.e-]*\).*/\1/p' "$to/search/summary.json" 2>/dev/null)
  note search cifar10 "$state" "$took" "\"seconds\":${seconds:-null}"
  printf 'CIFAR-10, first order, 50 epochs: %s; %s s\n' "$state" "${seconds:-–}" >>"$markdown"
fi

if wants sanitizer; then
  section 'Memory and races'
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  # A process for each file, as many at once as there are processors: one for all takes an hour.
  check_file() {
    local name
    name=$(basename "$2")
    mkdir -p "$work/$1/$name"
    cp "$2" "$work/$1/$name/"
    timeout -k 5 240 "$sanitizer" --tool "$1" --error-exitcode 9 "$darts" verify --golden "$work/$1/$name" --device cuda \
      >"$to/$1-$name.log" 2>&1
    echo "$? $name" >>"$work/$1.states"
  }
  export -f check_file
  export work to sanitizer darts
  for tool in memcheck racecheck; do
    if [ -n "$sanitizer" ]; then
      begin=$SECONDS
      printf '%s\n' "$golden"/*.safetensors | xargs -P "$(nproc)" -I{} bash -c 'check_file "$@"' check $tool {}
      clean=$(grep -c '^0 ' "$work/$tool.states")
      others=$(grep -v '^0 ' "$work/$tool.states" | sed 's/^9 /errors: /; s/^124 /not finished: /; s/^[0-9]* /failed: /' | paste -sd, -)
      if [ -n "$others" ]; then state=failed failed=1; else state=ok; fi
      note sanitizer $tool "$state" $((SECONDS - begin)) "\"clean\":$clean"
      printf '%s: %s files clean; others: %s\n\n' "$tool" "$clean" "${others:-none}" >>"$markdown"
    else
      note sanitizer $tool 'skipped: no compute-sanitizer' 0
      echo "$tool: skipped, there is no compute-sanitizer" >>"$markdown"
    fi
  done
fi

{
  printf '{"card":"%s","driver":"%s","date":"%s","failed":%s,"parts":[\n' "$card" "$driver" "$today" "$([ $failed = 0 ] && echo false || echo true)"
  paste -sd, "$entries"
  printf '],"kernels":'
  if [ -s "$to/kernels.json" ]; then cat "$to/kernels.json"; else printf null; fi
  printf '}\n'
} >"$to/results.json"
echo "wrote $markdown and $to/results.json" >&2
exit $failed
