#!/usr/bin/env bash
# A trained model turned to another language: Multi30k, English → French, word by word, then English → German
# with a table of German vectors that are aligned with the French ones, and with a few pairs.
#
#   [DATA_DIR=…] [LEXICON=FILE] examples/another-language/run.sh OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds train, val and test_2016_flickr, each .en, .fr and .de (plain, .gz or .xz). German vectors are
# fastText's of train.de, taken as text of its own; it tells the same captions, but no line is paired with another.
# The last line is a JSON object with BLEU and chrF of the German translations for each of
#   aligned                   the French model with the German table: no pair was seen
#   tuned-N, tuned-N-frozen   the same, trained on with N pairs: all of it, or without its FREEZE
#                             (encoder,decoder.layers)
#   scratch-N, softmax-N      trained on the N pairs alone: the same recipe over a table of the same German vectors,
#                             not aligned, and fairseq's softmax
# French BLEU of the model, and how well the table translates words that were held out of the lexicon.
#   LEXICON (identical)       a file of lines 'german french', or words that are spelled the same
#   DING                      in place of LEXICON: a file of the Ding dictionary (Debian's package trans-de-en:
#                             /usr/share/trans/de-en), whose German words are translated by way of English (ding.py)
#   ALIGN_OPTIONS (--held-out-share 0.05 --frequent 3000 --lexicon-weight 0.7)   of preprocess/align_tables.py
#   PAIRS (100 1000)          numbers N;  TUNE_UPDATES (200)  SCRATCH_UPDATES (600)  of which the checkpoint that is
#                             best on the validation data is taken;  CHECK_EVERY (20) updates it is looked for
#   TUNE_OPTIONS (--lr 1e-3 --lr-scheduler fixed --warmup-updates 0)
# RECIPE (best-frozen, or another with a frozen table) is that of the model; BEAM, LENPEN, TEMPERATURE, SEED, TABLE_DIM, … are
# those of the other recipes (examples/multi30k.de-en/run.sh --help).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SOURCE_LANG=en TARGET_LANG=fr NEW_LANG=de SUBWORD_METHOD=none
: "${LEXICON:=identical}" "${DING:=}"
: "${FASTTEXT_EPOCHS:=30}" "${ALIGN_OPTIONS=--held-out-share 0.05 --frequent 3000 --lexicon-weight 0.7}"
: "${PAIRS:=100 1000}"
: "${TUNE_UPDATES:=200}" "${SCRATCH_UPDATES:=600}" "${CHECK_EVERY:=20}" "${FREEZE:=encoder,decoder.layers}"
: "${TUNE_OPTIONS=--lr 1e-3 --lr-scheduler fixed --warmup-updates 0}"
# shellcheck source=../lib/multi30k.sh
. "$LIB/multi30k.sh"

SET=another-language
CONTINUOUS_OPTIONS=(--decoder-input table)

usage() {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

# German text beside the French: PIECES, BIN_DIR and TABLE are its own from here on.
prepare_new_language() {
  local OUTPUT=frozen INITIAL='' TARGET_LANG=$NEW_LANG PREP_DIR=$NEW_PREP
  local PREPROCESS_OPTIONS=(--srcdict "$BIN_DIR/dict.$SOURCE_LANG.txt") # the model reads these words
  mkdir -p "$PREP_DIR"
  prepare
}

stage_align() {
  # shellcheck disable=SC2206 # a list of options, split on blanks on purpose
  local options=($ALIGN_OPTIONS)
  "$PYTHON" "$ROOT/preprocess/align_tables.py" --table "$TRAINED_TABLE" \
    --dictionary "$TRAINED_BIN/dict.$TARGET_LANG.txt" --vectors "$1" \
    --new-dictionary "$BIN_DIR/dict.$NEW_LANG.txt" --lexicon "$LEXICON" --seed "$PREP_SEED" \
    --output "$ALIGNED" --report "$OUT/aligned.json" ${options[@]+"${options[@]}"}
}

stage_exchange() {
  "$PYTHON" "$ROOT/preprocess/exchange_table.py" --checkpoint "$1" --data "$TRAINED_BIN" \
    --new-table "$ALIGNED" --output "$BEGINNING"
}

stage_ding() {
  "$PYTHON" "$EXAMPLES/another-language/ding.py" --ding "$DING" --text "$PIECES/train.$NEW_LANG" \
    --pivot "$TRAINED_PIECES/train.$SOURCE_LANG" "$TRAINED_PIECES/train.$TARGET_LANG" --output "$LEXICON"
}

align() {
  local lexicon vectors
  if [ -n "$DING" ]; then
    LEXICON=$NEW_PREP/ding.$NEW_LANG-$TARGET_LANG
    stage "$NEW_PREP" ding "$(checksum "$DING")" stage_ding
  fi
  lexicon=$LEXICON
  [ "$LEXICON" = identical ] || lexicon=$(checksum "$LEXICON")
  ALIGNED=$OUT/aligned.safetensors BEGINNING=$OUT/aligned.pt
  fasttext_names target
  vectors=$NEW_PREP/$FASTTEXT_NAME-d$TABLE_DIM-e$FASTTEXT_EPOCHS-s$PREP_SEED.bin
  stage_again "$OUT" align "$lexicon $ALIGN_OPTIONS tables=$(checksum "$TRAINED_TABLE" "$TABLE")" stage_align "$vectors"
  stage_again "$OUT" exchange "$(checksum "$WEIGHTS" "$ALIGNED")" stage_exchange "$WEIGHTS"
}

# pairs N: PAIRS_DIR, the first N pairs of the training text, binarised with all of the validation text.
pairs() {
  PAIRS_DIR=$NEW_PREP/pairs-$1
  stage "$NEW_PREP" "pairs-$1" "" stage_pairs "$1"
}

stage_pairs() {
  local lang
  for lang in "$SOURCE_LANG" "$NEW_LANG"; do
    head -n "$1" "$PIECES/train.$lang" >"$PIECES/first-$1.$lang"
  done
  TARGET_LANG=$NEW_LANG binarise_pairs "$PAIRS_DIR" --trainpref "$PIECES/first-$1" --validpref "$PIECES/valid" \
    --srcdict "$BIN_DIR/dict.$SOURCE_LANG.txt" --tgtdict "$BIN_DIR/dict.$NEW_LANG.txt"
}

# variant NAME RECIPE DATA TABLE UPDATES OPTIONS…: train in OUT_DIR/NAME, and translate the test text.
variant() (
  OUT_DIR=$OUT/$1 TARGET_LANG=$NEW_LANG TABLE=$4 CHECKPOINT=best
  recipe_options "$2"
  INITIAL='' ENCODER_VECTORS='' DECODER_VECTORS='' LANGUAGE_MODEL=''
  local test_data=$BIN_DIR
  BIN_DIR=$3 EXTRA+=(--max-epoch 0 --max-update "$5" --validate-interval 1000000 --save-interval 1000000
    --validate-interval-updates "$CHECK_EVERY" --save-interval-updates "$CHECK_EVERY" --keep-interval-updates 1)
  shift 5
  [[ " $* " == *" $BEGINNING "* ]] || BEGINNING='' # it is no input of this training
  EXTRA+=("$@")
  train
  choose_weights
  decode test "$test_data" "$BEAM" "$LENPEN" "$TEMPERATURE"
)

variants() {
  local count tune
  NAMES=(aligned)
  (
    OUT_DIR=$OUT/aligned TARGET_LANG=$NEW_LANG WEIGHTS=$BEGINNING
    mkdir -p "$OUT_DIR"
    decode test "$BIN_DIR" "$BEAM" "$LENPEN" "$TEMPERATURE"
  )
  for count in $PAIRS; do
    pairs "$count"
    # shellcheck disable=SC2206 # a list of options, split on blanks on purpose
    tune=($TUNE_OPTIONS --finetune-from-model "$BEGINNING")
    variant "tuned-$count" "$CONTINUOUS" "$PAIRS_DIR" "$ALIGNED" "$TUNE_UPDATES" "${tune[@]}"
    variant "tuned-$count-frozen" "$CONTINUOUS" "$PAIRS_DIR" "$ALIGNED" "$TUNE_UPDATES" "${tune[@]}" --freeze "$FREEZE"
    variant "scratch-$count" "$CONTINUOUS" "$PAIRS_DIR" "$TABLE" "$SCRATCH_UPDATES"
    variant "softmax-$count" softmax "$PAIRS_DIR" '' "$SCRATCH_UPDATES"
    NAMES+=("tuned-$count" "tuned-$count-frozen" "scratch-$count" "softmax-$count")
  done
}

score_variants() {
  local logs=() name
  for name in "${NAMES[@]}"; do
    logs+=("$name=$OUT/$name/decode/test.beam$BEAM.log")
  done
  "$PYTHON" "$EXAMPLES/another-language/score.py" --reference "$NEW_PREP/raw/test.$NEW_LANG" \
    --target-lang "$NEW_LANG" --alignment "$OUT/aligned.json" --trained "$OUT/trained/results.jsonl" \
    --lexicon "$(basename "$LEXICON")" --command "$COMMAND" --output "$OUT/results.jsonl" "${logs[@]}"
}

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  usage
  exit 0
fi
[ $# -ge 1 ] || { usage >&2; die "OUT_DIR must be given, but was not"; }
CONTINUOUS=${RECIPE:-best-frozen}
[ "${TABLE_SOURCE}" = fasttext ] && [ -z "${VECTORS:-}" ] || die "TABLE_SOURCE must be fasttext, and VECTORS empty, since both languages need vectors of their own; leave them out"
[ "${TABLE_TEXT:-target}" = target ] || die "TABLE_TEXT must be target, since the new language has no paired text, but is $TABLE_TEXT; leave it out"
TABLE_TEXT=target
[ -z "${SEARCH:-}" ] || die "SEARCH must not be given, since these models decode over all words, but is $SEARCH; leave it out"
for name in LENPEN TEMPERATURE; do
  [[ "${!name:-1}" != *,* ]] || die "$name must be one number, since the new language has no paired text to choose with, but is ${!name}"
done
for value in $PAIRS "$TUNE_UPDATES" "$SCRATCH_UPDATES" "$CHECK_EVERY"; do
  [[ $value =~ ^[1-9][0-9]*$ ]] || die "PAIRS, TUNE_UPDATES, SCRATCH_UPDATES and CHECK_EVERY must be numbers, 1 or more, but there is $value"
done
if [ -n "$DING" ]; then
  [ "$LEXICON" = identical ] || die "LEXICON and DING must not both be given, but they are $LEXICON and $DING; leave one out"
  [ -f "$DING" ] || die "DING must be a file of the Ding dictionary, but $DING does not exist; it is /usr/share/trans/de-en of Debian's package trans-de-en"
  DING=$(absolute "$(dirname "$DING")")/$(basename "$DING")
fi
if [ "$LEXICON" != identical ]; then
  [ -f "$LEXICON" ] || die "LEXICON must be a file with pairs of words, or identical, but $LEXICON does not exist"
  LEXICON=$(absolute "$(dirname "$LEXICON")")/$(basename "$LEXICON")
fi
recipe_options "$CONTINUOUS"
[ "$OUTPUT" = frozen ] || die "RECIPE must have a frozen table, with which another can be aligned, but is $CONTINUOUS; give best-frozen, contrastive-frozen, cosine, …"
mkdir -p "$1"
OUT=$(absolute "$1")
shift
: "${PREP_DIR:=$OUT/prep}"
COMMAND="${GIVEN}RECIPE=$CONTINUOUS examples/another-language/run.sh OUT_DIR"
[ $# -eq 0 ] || COMMAND+=$(printf ' %q' "$@")
# not in a shell of its own: the table and the checkpoint of the model are wanted
recipe_run "$CONTINUOUS" "$OUT/trained" "$@"
TRAINED_TABLE=$TABLE TRAINED_BIN=$BIN_DIR TRAINED_PIECES=$PIECES NEW_PREP=$PREP_DIR-$NEW_LANG
{
  prepare_new_language
  align
  variants
  score_variants
} >&2
cat "$OUT/results.jsonl"
