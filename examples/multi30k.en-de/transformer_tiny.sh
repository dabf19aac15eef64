#!/usr/bin/env bash
# The Transformer-Tiny of Wu et al. (2021, https://aclanthology.org/2021.acl-long.480) with a continuous output,
# as the row of RESULTS.md that passes their softmax: FixNorm, importance, dot products and half of the cosine
# loss, in two stages, the second of which has a margin.
#
#   [DATA_DIR=…] [PREP_DIR=…] examples/multi30k.en-de/transformer_tiny.sh OUT_DIR [more fairseq-train options]
#
# OUT_DIR/first and OUT_DIR/last are those of run.sh. FIRST (5978, with which an epoch ends) is the number of updates
# of the first stage, UPDATES (8000) that of both. SEED (1) is that of both, LAST_SEED ($SEED) that of the second.
# SOFTMAX=1 trains fairseq's softmax in OUT_DIR in place of it, UPDATES long. Other variables are run.sh's.
set -euo pipefail
RUN=$(dirname "${BASH_SOURCE[0]}")/run.sh
fail() {
  echo "error: $*" >&2
  exit 1
}
[ $# -ge 1 ] || fail "OUT_DIR must be given; usage: ${BASH_SOURCE[0]} OUT_DIR [more fairseq-train options]"
out=$1
shift
: "${FIRST:=5978}" "${UPDATES:=8000}" "${SEED:=1}" "${SOFTMAX:=0}"
: "${LAST_SEED:=$SEED}"
[[ $FIRST =~ ^[1-9][0-9]*$ && $UPDATES =~ ^[1-9][0-9]*$ && $FIRST -lt $UPDATES ]] ||
  fail "FIRST and UPDATES must be numbers of updates, the second the larger, but are $FIRST and $UPDATES"
[[ $SOFTMAX =~ ^[01]$ ]] || fail "SOFTMAX must be 1 or 0, but is $SOFTMAX"
export SUBWORDS=${SUBWORDS:-10000} SCORE=tokenized FASTTEXT_EPOCHS=${FASTTEXT_EPOCHS:-30} CHECKPOINT=average
export AVERAGE=${AVERAGE:-10} LENPEN=${LENPEN:-1}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PREP_DIR=${PREP_DIR:-$out/prep}

tiny=(--encoder-layers 4 --decoder-layers 4 --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256 --dropout 0.3
  --lr 5e-3 --update-freq 2 --max-epoch 140)
if [ "$SOFTMAX" = 1 ]; then
  export SEED
  exec "$RUN" softmax "$out" "${tiny[@]}" --warmup-updates 2000 --max-update "$UPDATES" "$@"
fi
ours=("${tiny[@]}" --warmup-updates 1000 --sampling-estimator importance --score dot
  --criterion cosine --contrastive-weight 2 --fix-norm)
# its translations are not wanted: nothing is chosen for them
CHECKPOINT=last LENPEN=1 TEMPERATURE=1 SEED=$SEED "$RUN" best "$out/first" "${ours[@]}" --max-update "$FIRST" "$@" >&2
SEED=$LAST_SEED exec "$RUN" best "$out/last" "${ours[@]}" --max-update "$UPDATES" --additive-margin 0.1 \
  --restore-file "$out/first/checkpoints/checkpoint_last.pt" "$@"
