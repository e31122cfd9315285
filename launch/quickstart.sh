#!/usr/bin/env bash
# From nothing to a hit rate: environment, data, pretraining under deepspeed, evaluation, a table.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash launch/quickstart.sh [--data PATH --format FORMAT] [--config FILE] [--out DIR] [key=value ...]

Without --data a small city is simulated, so that the result can be held against the best possible one.

  --data PATH      raw check-ins: a file or a folder
  --format FORMAT  foursquare | gowalla | getnext | lessismore | tables
  --config FILE    run configuration; default: configs/pretrain/quickstart.yaml for the simulated city,
                   configs/pretrain/nyc.yaml (3 to 5 minutes on 2 cores) for given data
  --out DIR        where everything goes; default: runs/quickstart, or runs/quickstart-FORMAT-NAME for given data
  key=value        overrides of the configuration, such as train.max_minutes=5

What is done is skipped when the script is run again with the same input.
TEXT
}

die() {
  echo "error: $1" >&2
  exit 2
}

data="" format="" config="" out="" overrides=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data | --format | --config | --out)
      [ $# -ge 2 ] || die "$1 needs a value; see --help"
      case "$1" in
        --data) data="$2" ;;
        --format) format="$2" ;;
        --config) config="$2" ;;
        --out) out="$2" ;;
      esac
      shift 2
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *=*)
      overrides+=("$1")
      shift
      ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
[ -z "$data" ] || [ -e "$data" ] || die "--data $data does not exist"
[ -z "$data" ] || [ -n "$format" ] || die "--data needs --format foursquare, gowalla, getnext, lessismore or tables"
[ -n "$data" ] || [ -z "$format" ] || die "--format needs --data"
case "$format" in
  "" | foursquare | gowalla | getnext | lessismore | tables) ;;
  *) die "--format $format; expected foursquare, gowalla, getnext, lessismore or tables" ;;
esac

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment
if [ -z "$data" ]; then
  out="${out:-$repository/runs/quickstart}"
  config="${config:-$repository/configs/pretrain/quickstart.yaml}"
else
  name="$(basename "$data")"
  out="${out:-$repository/runs/quickstart-$format-${name%%.*}}"
  config="${config:-$repository/configs/pretrain/nyc.yaml}"
fi
mkdir -p "$out"
out="$(cd "$out" && pwd)"
start=$SECONDS
step() { echo && echo "== [$((SECONDS - start)) s] $1"; }

case "$format" in
  "")
    step "simulate a city"
    spacetime-gr simulate --out "$out/city" --num-users 1000 --num-events 125000
    data="$out/city" format=simulated protocol=time_split
    ;;
  # The public rule filters rare places and users of raw files first, which prepare does on training only.
  foursquare | gowalla | tables) protocol=time_split ;;
  *) protocol=public ;;
esac

step "prepare"
spacetime-gr prepare --source "$data" --format "$format" --out "$out/data" --max-pois-per-block 32

step "pretrain (ZeRO under deepspeed; log: $out/run/metrics.jsonl)"
accelerators=()
gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
if [ "$gpus" = 0 ]; then
  export DS_ACCELERATOR=cpu
  accelerators=(--num_accelerators 2)
else # as many as divide the lanes of both configurations
  accelerators=(--num_accelerators $((gpus >= 4 ? 4 : gpus >= 2 ? 2 : 1)))
fi
deepspeed "${accelerators[@]}" "$repository/launch/pretrain.py" --config "$config" \
  run.dir="$out/run" data.path="$out/data" "${overrides[@]}"

step "evaluate"
sample=()
[ "$format" != gowalla ] || sample=(--max-targets 2000) # ranking each of its targets among a million places takes days
spacetime-gr evaluate "$out/run" --data "$out/data" --protocol "$protocol" "${sample[@]}" --json "$out/run/eval.json" --reuse

step "report"
spacetime-gr report "$out/run" --data "$out/data"

step "done; everything lies in $out"
cat <<TEXT
  prepared data       $out/data
  run                 $out/run          (config.yaml, metrics.jsonl, checkpoints/)
  model               $out/run/export   (a Hugging Face folder: model, tokenizer, model card)
  result              $out/run/eval.json
  report              $out/run/report.html   (curves, evaluation, and movements of persons: not for publication)
Next: spacetime-gr recommend $out/run --help; docs/pretrain.md for the way from here to a cluster.
TEXT
