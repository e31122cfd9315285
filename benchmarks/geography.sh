#!/usr/bin/env bash
# Is geography worth it? The same model and data with quadtree, grid and random blocks at the same vocabulary, on the
# less-is-more New York split and on a simulated country. About an hour on 2 cores.
#   bash benchmarks/geography.sh DATA OUT [key=value ...]     DATA: folder with nyc_foursquare/splits (see docs/prepare.md)
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,4p "$0" >&2; exit 2; }
data="$1" out="$2"
shift 2
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
mkdir -p "$out"
[ -e "$out/country/events.parquet" ] || python "$repository/benchmarks/index_alternatives.py" country --out "$out/country"
for name in nyc country; do
  if [ "$name" = nyc ]; then
    source="$data/nyc_foursquare/splits/lessismore" format=lessismore protocol=lessismore config=nyc targets=6000
    settings=(train.max_steps=420) # 7 passes
  else
    source="$out/country" format=tables protocol=time_split config=quickstart
    settings=(train.max_steps=150) targets=1500
  fi
  spacetime-gr prepare --source "$source" --format "$format" --out "$out/$name/data" --max-pois-per-block 32
  [ -e "$out/$name/random" ] ||
    python "$repository/benchmarks/index_alternatives.py" variants --data "$out/$name/data" --out "$out/$name"
  for blocks in quadtree grid random; do
    deepspeed --num_accelerators 2 "$repository/launch/pretrain.py" --config "$repository/configs/pretrain/$config.yaml" \
      data.path="$out/$name/$blocks/data" run.dir="$out/$name/$blocks/run" "${settings[@]}" "$@"
    spacetime-gr evaluate "$out/$name/$blocks/run" --data "$out/$name/$blocks/data" --protocol "$protocol" \
      --max-targets $targets --json "$out/$name/$blocks/eval.json" --reuse
  done
done
